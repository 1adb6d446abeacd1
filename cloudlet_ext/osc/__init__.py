# SPDX-License-Identifier: Apache-2.0
"""The ``openstack cloudlet`` commands: one class for each, one module for each noun."""
