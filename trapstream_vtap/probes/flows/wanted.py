# SPDX-License-Identifier: Apache-2.0
"""The rules as C text: a function of a packet's numbers that says whether a rule matches.

For each field a binary search over the places where the set of matching rules changes; what it
finds is a constant, that set as bits. The sets of all fields are combined by AND. So the time grows
with the logarithm of the number of rules, plus one AND per field and 64 rules.

Only numbers go into the text. See docs/decisions/rules-as-bit-sets.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trapstream_vtap.errors import UsageError
from trapstream_vtap.words import amount

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trapstream_vtap.probes.flows.rules import Ranges, Rule

MOST_INSTRUCTIONS = 20_000
"""By the estimate below, which is up to a tenth too low.

A jump goes no further than 32,767 instructions, and all else that may be asked for takes 6,500.
"""

_PARTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)

_WORD = 64
_IMMEDIATE = 1 << 31  # from here on a constant takes an instruction of its own, of double length
_IS_IPV4 = "(traits >> 8 & 0xFF) == 4"
_HAS_PORTS = "traits & 0x10000"
_PORT, _PROTOCOL = (1 << 16) - 1, (1 << 8) - 1
_INLINE = "static inline __attribute__((always_inline)) u64"
_PARAMETERS = "u64 src_hi, u64 src_lo, u64 dst_hi, u64 dst_lo, u32 ports, u32 traits, u64 zero"
_ARGUMENTS = "src_hi, src_lo, dst_hi, dst_lo, ports, traits, zero"


def define_wanted(rules: Sequence[Rule]) -> str:
    """The C function `wanted`, of a packet's addresses, ports, traits, and a hidden zero.

    Addresses are in the order of the wire, as in `struct packet`. `zero` is 0, but must not be
    known to the verifier to be: it would follow every combination of constants to its end.

    Raises:
        UsageError: The rules are too many for a kernel program.
    """
    groups = grouped(rules)
    return "\n".join(
        (
            *(group.definition for group in groups),
            f"{_INLINE} wanted({_PARAMETERS})",
            "{",
            _hide("traits"),
            f"if ({_IS_IPV4}) {{",
            "src_lo = __builtin_bswap32(src_hi);",
            "dst_lo = __builtin_bswap32(dst_hi);",
            "} else {",
            "src_hi = __builtin_bswap64(src_hi);",
            "src_lo = __builtin_bswap64(src_lo);",
            "dst_hi = __builtin_bswap64(dst_hi);",
            "dst_lo = __builtin_bswap64(dst_lo);",
            "}",
            f"return {' || '.join(f'{group.name}({_ARGUMENTS})' for group in groups)};",
            "}",
            "",
        )
    )


def _hide(variable: str) -> str:
    """C text after which the verifier knows nothing about VARIABLE, which is as before.

    What it has learned in one search would lead it through the next one, for each way apart.
    """
    return f'asm volatile("%0 ^= %1" : "+r"({variable}) : "r"(zero));'


def grouped(rules: Sequence[Rule]) -> list[_Group]:
    """The rules in as few groups as a kernel program has room for.

    More groups are narrower sets, but more searches.

    Raises:
        UsageError: The rules are too many for a kernel program.
    """
    # those of one IP version side by side; the order does not matter, as all rules count packets
    ordered = sorted(rules, key=lambda rule: sorted(rule.addresses))
    for parts in _PARTS:
        size = max(1, -(-len(rules) // parts))
        groups = [_Group(at // size, ordered[at : at + size]) for at in range(0, len(rules), size)]
        if sum(group.instructions for group in groups) <= MOST_INSTRUCTIONS:
            return groups
    raise UsageError(
        f"{amount(len(rules), 'rule')} with too many values for a kernel program: use prefixes "
        "and ranges in place of long lists."
    )


@dataclass(frozen=True)
class _Search:
    """Where the set of rules that match a number changes: first numbers, and the set from there."""

    high: str  # C expressions of the number, in two words where it has more than 64 bits
    low: str
    last: int  # the highest number there can be
    starts: tuple[int, ...]
    sets: tuple[int, ...]

    @classmethod
    def of(cls, high: str, low: str, last: int, ranges: Sequence[Ranges]) -> _Search:
        """The search for a number, by the ranges that each rule has."""
        changes: dict[int, int] = {0: 0}
        for number, of_rule in enumerate(ranges):
            for first, end in of_rule:
                for at in (first, end + 1):
                    changes[at] = changes.get(at, 0) ^ 1 << number
        now = 0
        starts: list[int] = []
        sets: list[int] = []
        for at in sorted(changes):
            now ^= changes[at]
            if at <= last and (not sets or sets[-1] != now):
                starts.append(at)
                sets.append(now)
        return cls(high, low, last, tuple(starts), tuple(sets))

    def instructions(self, words: int) -> int:
        """About how many it takes in the kernel's machine code."""
        leaves = sum(self._leaf(found, words) for found in self.sets)
        return words + leaves + self._comparisons(0, len(self.starts))

    def _comparisons(self, begin: int, end: int) -> int:
        """About how many its comparisons take."""
        if end - begin == 1:
            return 0
        middle, _, here = self._split(begin, end)
        return here + self._comparisons(begin, middle) + self._comparisons(middle, end)

    @staticmethod
    def _leaf(found: int, words: int) -> int:
        """About how many it takes to set FOUND and jump; an empty set is a jump that is there."""
        if not found:
            return 0
        parts = [found >> word * _WORD & (1 << _WORD) - 1 for word in range(words)]
        return 1 + sum(1 if part < _IMMEDIATE else 2 for part in parts)

    def text(self, words: int) -> Iterator[str]:
        """C lines that set `found` words, or return 0 where no rule matches."""
        yield from self._between(0, len(self.starts), words)

    def _between(self, begin: int, end: int, words: int) -> Iterator[str]:
        if end - begin == 1:
            found = self.sets[begin]
            if not found:
                yield "return 0;"
            for word in range(words if found else 0):
                bits = found >> word * _WORD & (1 << _WORD) - 1
                yield f"f{word} = {bits:#x}ULL;"
            return
        middle, below, _ = self._split(begin, end)
        yield f"if ({below}) {{"
        yield from self._between(begin, middle, words)
        yield "} else {"
        yield from self._between(middle, end, words)
        yield "}"

    def _split(self, begin: int, end: int) -> tuple[int, str, int]:
        """The middle of a part, the C condition to be below it, and the instructions it takes."""
        middle = (begin + end) // 2
        highest = self.starts[end] - 1 if end < len(self.starts) else self.last
        high, low = self.starts[middle] >> 64, self.starts[middle] & (1 << 64) - 1
        if self.starts[begin] >> 64 == highest >> 64:
            return middle, f"low < {low:#x}ULL", _comparison(low)
        if not low:
            return middle, f"high < {high:#x}ULL", _comparison(high)
        condition = f"high < {high:#x}ULL || (high == {high:#x}ULL && low < {low:#x}ULL)"
        return middle, condition, _comparison(high) + 1 + _comparison(low)


def _comparison(constant: int) -> int:
    """How many instructions it takes to compare with a constant."""
    return 1 if constant < _IMMEDIATE else 3


@dataclass(frozen=True)
class _Group:
    """Some rules, one bit for each."""

    number: int
    rules: Sequence[Rule]

    @property
    def name(self) -> str:
        """Of its function."""
        return f"wanted_{self.number}"

    @property
    def words(self) -> int:
        """How many the set of its rules has."""
        return -(-len(self.rules) // _WORD)

    @property
    def _everything(self) -> int:
        return (1 << len(self.rules)) - 1

    def _needed(self, *searches: _Search) -> list[_Search]:
        """Without those that find all rules whatever they look for."""
        return [search for search in searches if search.sets != (self._everything,)]

    def _addresses(self, version: int) -> list[_Search]:
        last = (1 << (32 if version == 4 else 128)) - 1  # noqa: PLR2004 - IP versions
        ends = [rule.addresses.get(version, ((), ())) for rule in self.rules]
        return self._needed(
            _Search.of("src_hi", "src_lo", last, [source for source, _ in ends]),
            _Search.of("dst_hi", "dst_lo", last, [destination for _, destination in ends]),
        )

    @property
    def _ports(self) -> list[_Search]:
        """For packets that have ports."""
        return self._needed(
            *(
                _Search.of("0", text, _PORT, [r.ports[end] or ((0, _PORT),) for r in self.rules])
                for end, text in enumerate(("(ports >> 16)", "(ports & 0xFFFF)"))
            )
        )

    @property
    def _protocol(self) -> list[_Search]:
        return self._needed(
            _Search.of("0", "(traits & 0xFF)", _PROTOCOL, [rule.protocol for rule in self.rules])
        )

    @property
    def _without_ports(self) -> int:
        """The set of the rules that match where there are no ports."""
        return sum(1 << n for n, rule in enumerate(self.rules) if rule.ports == (None, None))

    @property
    def instructions(self) -> int:
        """About how many it takes."""
        searches = (*self._addresses(4), *self._addresses(6), *self._ports, *self._protocol)
        return sum(search.instructions(self.words) for search in searches)

    @property
    def definition(self) -> str:
        """Its C function; not 0: one of the rules matches."""
        words = range(self.words)
        declared = ", ".join(f"f{w}, m{w} = ~0ULL" for w in words)
        lines = [f"{_INLINE} {self.name}({_PARAMETERS})", "{", f"u64 high, low, {declared};"]
        four, six = self._addresses(4), self._addresses(6)
        if four or six:
            lines.append(f"if ({_IS_IPV4}) {{")
            lines += self._combine(four)
            lines.append("} else {")
            lines += self._combine(six)
            lines.append("}")
        if self._without_ports != self._everything:
            lines.append(f"if ({_HAS_PORTS}) {{")
            lines += self._combine(self._ports)
            lines.append("} else {")
            if self._without_ports:
                for w in words:
                    bits = self._without_ports >> w * _WORD & (1 << _WORD) - 1
                    lines.append(f"m{w} &= {bits:#x}ULL;")
            else:
                lines.append("return 0;")
            lines.append("}")
        lines += self._combine(self._protocol)
        union = " | ".join(f"m{w}" for w in words)
        lines += [f"m0 = {union};", _hide("m0"), "return m0 != 0;", "}", ""]
        return "\n".join(lines)

    def _combine(self, searches: list[_Search]) -> Iterator[str]:
        for search in searches:
            yield f"high = {search.high};"
            yield _hide("high")
            yield f"low = {search.low};"
            yield _hide("low")
            yield from search.text(self.words)
            yield from (f"m{w} &= f{w};" for w in range(self.words))
