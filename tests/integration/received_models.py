"""Hostile models, weights and heads by name, and mutations of good ones."""

import numpy as np


def mutated(whole: bytes, random: np.random.Generator) -> bytes:
    """Good bytes with one or a few changes: bits, bytes, numbers, cuts, repeats and removals."""
    mutant = bytearray(whole)
    for _ in range(int(random.integers(1, 4))):
        place = int(random.integers(len(mutant) or 1))
        length = int(random.integers(1, 64))
        match int(random.integers(7)):
            case 0:
                mutant[place : place + 1] = bytes([random.integers(256)])
            case 1 if place < len(mutant):
                mutant[place] ^= 1 << int(random.integers(8))
            case 2:
                number = int(random.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 16]))
                mutant[place : place + 4] = number.to_bytes(4, "little")
            case 3:
                del mutant[place : place + length]
            case 4:
                mutant[place:place] = mutant[place : place + length]
            case 5:
                other = int(random.integers(len(mutant) or 1))
                mutant[place : place + length] = mutant[other : other + length]
            case _ if random.integers(10) == 0:
                del mutant[place:]
    return bytes(mutant)
