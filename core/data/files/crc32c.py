"""CRC-32C (Castagnoli), the checksum of TFRecord files, in numpy.

A cyclic redundancy check is linear: the register after A + B is that after A, advanced by
len(B) zero bytes, xor that of B alone (register 0 before). So parts of the data are
computed beside each other and combined in pairs. Source: RFC 3720, appendix B.4.
"""

import functools

import numpy as np

POLYNOMIAL = 0x82F63B78  # bits reversed
MASK_DELTA = 0xA282EAD8  # of TFRecord's masked checksums
SHORT = 64  # bytes below which a plain loop is faster
PART = 256  # bytes of a part
PARTS = 4096  # at most about twice as many parts


def crc32c(data) -> int:
    """The checksum of bytes."""
    if len(data) < SHORT:
        return crc_of_few(data)
    part = PART
    while part * PARTS * 2 < len(data):
        part *= 2
    count = -(-len(data) // part)
    # Zeros in front do not change a register that begins at 0; that the register begins
    # at 0xFFFFFFFF is the same as inverting the first four bytes.
    padded = np.zeros(count * part, np.uint8)
    padded[count * part - len(data) :] = np.frombuffer(data, np.uint8)
    padded[count * part - len(data) :][:4] ^= 0xFF
    words = np.ascontiguousarray(padded.view("<u4").reshape(count, -1).T)
    four = advance_tables(4)
    register = np.zeros(count, np.uint32)
    for column in words:
        register = advance(register ^ column, four)
    while len(register) > 1:
        if len(register) % 2:
            register = np.append(np.uint32(0), register)
        register = advance(register[0::2], advance_tables(part)) ^ register[1::2]
        part *= 2
    return int(register[0]) ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """The checksum as TFRecord stores it."""
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def crc_of_few(data) -> int:
    """`crc32c`, byte by byte."""
    table, register = byte_table(), 0xFFFFFFFF
    for byte in bytes(data):
        register = table[(register ^ byte) & 0xFF] ^ register >> 8
    return register ^ 0xFFFFFFFF


@functools.cache
def byte_table() -> list[int]:
    """Registers after one zero byte, of registers 0 to 255."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(POLYNOMIAL), table >> 1)
    return table.tolist()


def advance(register, tables):
    """Registers uint32 [...] after the zero bytes of `advance_tables`."""
    low, high = tables
    return low[register & 0xFFFF] ^ high[register >> 16]


@functools.cache
def advance_tables(count: int):
    """Registers after `count` zero bytes, a power of two: of the low and high halves."""
    halves = np.arange(1 << 16, dtype=np.uint32)
    halves = np.stack([halves, halves << 16])
    if count == 1:
        return np.array(byte_table(), np.uint32)[halves & 0xFF] ^ halves >> 8
    once = advance_tables(count // 2)
    return advance(advance(halves, once), once)
