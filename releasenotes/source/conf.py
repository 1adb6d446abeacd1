# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration of the release notes."""

project = "cloudlet-ext release notes"
copyright = "The cloudlet-ext contributors"
extensions = ["openstackdocstheme", "reno.sphinxext"]
root_doc = "index"
html_theme = "openstackdocs"
openstackdocs_auto_name = False
openstackdocs_auto_version = False
