"""Files damaged as transfers, editors and attackers damage them; the same for the same seed on every machine."""

import random
import re
from pathlib import Path

INTERESTING = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000]
WORDS = [b"nan", b"inf", b"-1", b"0", b"1e308", b"99999999999", b"", b"\xff\xfe", b"'", b'"', b"<", b"{", b"\n", b"?"]
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
VALUE = re.compile(rb'(?<=[:\[,])\s*("[^"\n]*"|-?\d[\d.eE+-]*|true|false|null|\[\]|\{\})(?!\s*:)')
VALUES = [b"null", b"true", b"-1", b"0", b"3", b"0.5", b'"x"', b'""', b"[]", b"{}", b"[1]", b"NaN", b"1e999", b"9" * 11]


def mutate(data: bytes, others: list[bytes], generator: random.Random) -> bytes:
    """One to eight changes."""
    changed = bytearray(data)
    for _ in range(generator.choice([1, 1, 1, 2, 4, 8])):
        generator.choice(MUTATIONS)(changed, others, generator)
    return bytes(changed)


def mutate_file(data: bytes, others: list[bytes], generator: random.Random) -> bytes:
    """The same below the first line, which names a file; of JSON mostly values, since nearly all else makes it none."""
    name, _, content = data.partition(b"\n")
    if name.endswith(b".json") and generator.random() < 0.7:
        changed = bytearray(content)
        for _ in range(generator.choice([1, 1, 2, 4])):
            set_value(changed, others, generator)
        return name + b"\n" + bytes(changed)
    return name + b"\n" + mutate(content, others, generator)


def place(data: bytearray, generator: random.Random) -> int:
    """Half of them near the start, where headers are."""
    end = min(len(data), 400) if generator.random() < 0.5 else len(data)
    return generator.randrange(end) if end else 0


def flip_bits(data: bytearray, others: list[bytes], generator: random.Random) -> None:
    for _ in range(generator.choice([1, 1, 4, 64])):
        if data:
            data[place(data, generator)] ^= 1 << generator.randrange(8)


def set_number(data: bytearray, others: list[bytes], generator: random.Random) -> None:
    """A binary number of 1 to 8 bytes that is at the edge of its range."""
    size, start = generator.choice([1, 2, 4, 8]), place(data, generator)
    value = generator.choice(INTERESTING) & (256**size - 1)
    data[start : start + size] = value.to_bytes(size, generator.choice(["little", "big"]))


def set_word(data: bytearray, others: list[bytes], generator: random.Random) -> None:
    """A number written as text becomes another, or none."""
    numbers = list(NUMBER.finditer(bytes(data[:100_000])))
    if numbers:
        number = generator.choice(numbers)
        data[number.start() : number.end()] = generator.choice(WORDS)


def set_value(data: bytearray, others: list[bytes], generator: random.Random) -> None:
    """A value of JSON becomes one of another type, or out of its range."""
    values = list(VALUE.finditer(bytes(data[:100_000])))
    if values:
        start, end = generator.choice(values).span(1)
        data[start:end] = generator.choice(VALUES)


def cut(data: bytearray, others: list[bytes], generator: random.Random) -> None:
    del data[place(data, generator) :]


def remove(data: bytearray, others: list[bytes], generator: random.Random) -> None:
    start = place(data, generator)
    del data[start : start + generator.choice([1, 2, 16, 400, len(data) // 2 + 1])]


def repeat(data: bytearray, others: list[bytes], generator: random.Random) -> None:
    start = place(data, generator)
    part = data[start : start + generator.choice([1, 4, 64, 1000])]
    data[start:start] = part * generator.choice([1, 2, 50])


def insert_noise(data: bytearray, others: list[bytes], generator: random.Random) -> None:
    start = place(data, generator)
    data[start:start] = generator.randbytes(generator.choice([1, 3, 32, 1000]))


def splice(data: bytearray, others: list[bytes], generator: random.Random) -> None:
    """Goes on as another file does."""
    other = generator.choice(others)
    data[place(data, generator) :] = other[generator.randrange(len(other)) :]


MUTATIONS = [flip_bits, flip_bits, set_number, set_number, set_word, cut, remove, repeat, insert_noise, splice]


def check_sentence(error: ValueError, start: str | Path, most: int = 600) -> None:
    """It begins with what names the file, in one line of at most so many characters."""
    text = str(error)
    assert text.startswith(str(start)) and text and not {"\n", "\r"} & set(text) and len(text) < most, repr(text)
