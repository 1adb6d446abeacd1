# SPDX-License-Identifier: Apache-2.0
"""Operations that join the engine and the hypervisor: base creation, overlay creation, synthesis."""
