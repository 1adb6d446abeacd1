# SPDX-License-Identifier: Apache-2.0
"""Handlers: one module for each noun; functions of five steps: context, policy, parse, domain call, response."""
