# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration of the REST reference."""

project = "cloudlet-ext REST API"
copyright = "The cloudlet-ext contributors"
extensions = ["openstackdocstheme"]
root_doc = "index"
html_theme = "openstackdocs"
pygments_style = "native"
nitpicky = True
openstackdocs_auto_name = False
openstackdocs_auto_version = False
