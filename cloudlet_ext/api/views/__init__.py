# SPDX-License-Identifier: Apache-2.0
"""Views: how things look in answers, one module for each noun."""
