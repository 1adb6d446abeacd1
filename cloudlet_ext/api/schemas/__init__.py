# SPDX-License-Identifier: Apache-2.0
"""JSON schemas of every request and response, one module for each noun."""
