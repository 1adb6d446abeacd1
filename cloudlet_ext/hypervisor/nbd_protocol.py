# SPDX-License-Identifier: Apache-2.0
"""Numbers and record layouts of the NBD protocol, as far as a read-only export needs them.

Names are those of the protocol's own document, doc/proto.md of the nbd project.
"""

from __future__ import annotations

import struct

INIT_MAGIC = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698

GREETING = struct.Struct(">QQH")
CLIENT_FLAGS = struct.Struct(">I")
OPTION = struct.Struct(">QII")
"""Magic, option, length of its data."""
OPTION_REPLY = struct.Struct(">QIII")
"""Magic, option, type of the reply, length of its data."""
EXPORT_NAME_REPLY = struct.Struct(">QH")
INFO_EXPORT = struct.Struct(">HQH")
INFO_BLOCK_SIZE = struct.Struct(">HIII")
REQUEST = struct.Struct(">IHHQQI")
"""Magic, flags, command, cookie, offset, length."""
SIMPLE_REPLY = struct.Struct(">IIQ")
"""Magic, error, cookie."""

FLAG_FIXED_NEWSTYLE = 1
FLAG_NO_ZEROES = 2
EXPORT_ZEROES = bytes(124)

TRANSMISSION_HAS_FLAGS = 1 << 0
TRANSMISSION_READ_ONLY = 1 << 1
TRANSMISSION_SEND_FLUSH = 1 << 2
TRANSMISSION_CAN_MULTI_CONN = 1 << 8

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST = 1, 2, 3
OPT_INFO, OPT_GO = 6, 7

REP_ACK, REP_SERVER, REP_INFO = 1, 2, 3
_ERROR = 1 << 31
REP_ERR_UNSUP = _ERROR + 1
REP_ERR_INVALID = _ERROR + 3
REP_ERR_UNKNOWN = _ERROR + 6

INFO_TYPE_EXPORT = 0
INFO_TYPE_BLOCK_SIZE = 3

CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM = 0, 1, 2, 3, 4
CMD_WRITE_ZEROES = 6

EPERM, EIO, EINVAL = 1, 5, 22

MINIMUM_BLOCK = 4096
PREFERRED_BLOCK = 64 << 10
MAXIMUM_BLOCK = 2 << 20
"""Told to clients that ask: sixteen requests of this size are what one connection may hold in
memory."""
MAXIMUM_REQUEST = 32 << 20
"""What a client that does not ask may assume by the protocol."""
