"""What a plugin sees: records of a topic, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Context:
    """What is true of a run of records that came together, in one batch of one producer."""

    #: The positions of its records in the batch.
    records: range
    #: The time at which it is appended, in milliseconds since 1970. There is no other clock.
    now: int
    #: The same for every retry of the batch; otherwise as good as random. There is no other randomness.
    seed: int
    #: Only with `Setup.read_principal`.
    principal: str | None = None
    #: Only with `Setup.read_client_id`.
    client_id: str | None = None


@dataclass
class Batch:
    """Records of a topic, in order. Only what was asked for in `open` is there; the other columns are empty."""

    #: The topic that the records were sent to, and its number of partitions.
    topic: str
    partitions: int
    #: How many records.
    count: int
    contexts: Sequence[Context]
    #: A list each, with an entry for each record; `None` is null, which is not the same as empty.
    keys: Sequence[bytes | None] = ()
    values: Sequence[bytes | None] = ()
    #: Milliseconds since 1970.
    timestamps: Sequence[int] = ()
    _headers: dict[str, Sequence[bytes | None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.count

    def header(self, name: str) -> Sequence[bytes | None]:
        """The last value of a header in each record; `None` where a record has none of that name. Asked for with `Setup.read_header`."""
        return self._headers[name]


def unpack(column) -> list[bytes | None]:
    """The values of a column as it crosses into the sandbox: one after another, and where each ends."""
    data, start, values = column.data, 0, []
    for end in column.ends:
        values.append(data[start:end])
        start = end
    for word, bits in enumerate(column.nulls):
        while bits:
            low = bits & -bits
            values[word * 64 + low.bit_length() - 1] = None
            bits ^= low
    return values
