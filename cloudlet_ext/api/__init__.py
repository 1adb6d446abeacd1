# SPDX-License-Identifier: Apache-2.0
"""The REST API as far as it needs no Nova: its URLs, versions, schemas, views, checks and errors."""
