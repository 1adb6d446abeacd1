# SPDX-License-Identifier: Apache-2.0
"""Plugin of python-openstackclient: what its entry point ``openstack.cli.extension`` expects of a module."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from osc_lib import utils

from cloudlet_ext.sdk.proxy import Proxy
from cloudlet_ext.sdk.service import attach

API_NAME = "cloudlet"
API_VERSION_OPTION = "os_cloudlet_api_version"
DEFAULT_API_VERSION = "1"
API_VERSIONS = ("1", "1.0")


def make_client(instance: Any) -> Proxy:
    """The proxy of the client manager's own connection."""
    attach(instance.sdk_connection)
    proxy: Proxy = instance.sdk_connection.cloudlet
    return proxy


def build_option_parser(parser: ArgumentParser) -> ArgumentParser:
    """Add the global option."""
    parser.add_argument(
        "--os-cloudlet-api-version",
        metavar="<cloudlet-api-version>",
        default=utils.env("OS_CLOUDLET_API_VERSION", default=DEFAULT_API_VERSION),
        help=f"Cloudlet API version, default={DEFAULT_API_VERSION} (Env: OS_CLOUDLET_API_VERSION)",
    )
    return parser
