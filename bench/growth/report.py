"""What growth.json says: as Markdown for docs/performance.md, and as a plot."""

from __future__ import annotations

import json
from typing import Any

from bench.growth.statements import allowed, kept
from bench.llm.report import table
from tests.support import ROOT

RESULTS, PLOT = ROOT / "bench" / "growth.json", ROOT / "docs" / "images" / "growth.svg"

ROUTE_LIMIT = 1.3


MACHINE = """\
Measured with {}. PostgreSQL has its default settings (128 MB of shared buffers), and the data fits into the machine's
memory: where it does not, a page that nobody has used lately is a read from disk besides. The indexes are 90 % full, as
a load leaves them; random inserts leave a B-tree about 69 % full, so those of a grown database are a third larger."""
ROUTES = """\
p50 of 300 requests of as many users, one at a time and in turns: one to each database. In parentheses: the least and
the largest ratio of five parts of the run. Each user has 25 sessions, which lie on as many pages of the table."""
STATEMENTS = """\
Pages of 8 kB, by `EXPLAIN (ANALYZE, BUFFERS)`, median of five users. For each level that the indexes have become deeper
a statement may touch one page more each time that it goes down one, and one besides where it crosses the edge of a
page. A batch of the purge is 1,000 rows; each may cost a page of the table and its own way down an index."""


def read() -> dict[str, Any]:
    """What the last run has found."""
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    return found


def write(found: dict[str, Any]) -> None:
    """Keep it, and draw it."""
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    PLOT.write_text(svg(found))


def markdown(found: dict[str, Any]) -> str:
    """Four tables, and what they rest on."""
    parts = [_promises(found), MACHINE.format(found["machine"]), _routes(found), ROUTES, _statements(found), STATEMENTS]
    return "\n\n".join([*parts, _levels(found)])


def _promises(found: dict[str, Any]) -> str:
    load, purge, deletion, ends = found["load"], found["purge"], found["deletion"], found["ends_of_a_list"]
    statements = found["statements"]
    missed = [name for name in statements["statements"] if not kept(statements, name)]
    routes = found["routes"].values()
    p99 = purge["p99"]
    usual = (p99["without"] + p99["again"]) / 2
    worst, noise = max(route["large"][0] for route in routes), max(route["again"][0] for route in routes)
    rows = [
        ("Loading", f"{load['seconds']:.0f} s", "< 600 s"),
        ("On disk", f"{load['gigabytes']:.1f} GB (with the log of changes: {load['with_log']:.1f} GB)", "< 6 GB"),
        (
            "Statements that touch more pages than the depth of the indexes explains",
            f"{len(missed)} of {len(statements['statements'])}",
            "0",
        ),
        ("p50 of a route to the almost empty database's, largest", f"{worst:.2f} (noise: {noise:.2f})", "≤ 1.3"),
        (
            "List of a user with 10,000 sessions, last page to first: pages",
            f"{ends['pages']['last']} to {ends['pages']['first']}",
            "the same",
        ),
        (
            "The same: p50",
            f"{ends['p50']['last']:.2f} ms to {ends['p50']['first']:.2f} ms (first again: {ends['p50']['again']:.2f})",
            "the same",
        ),
        (
            f"`flask purge` of {purge['rows']:,} rows beside {purge['rate']} requests/s: their p99",
            f"{p99['with'] / usual:.2f} times ({p99['with']:.1f} ms; without {p99['without']:.1f}, {p99['again']:.1f})",
            "≤ 1.5 times",
        ),
        ("The same: how long it worked", f"{purge['seconds']:.0f} s", ""),
        (
            f"Deletion of a user with {deletion['sessions']:,} sessions, slowest of {len(deletion['milliseconds'])}",
            f"{max(deletion['milliseconds']):.0f} ms",
            "< 1000 ms",
        ),
    ]
    return table(("", "measured", "goal"), rows)


def _routes(found: dict[str, Any]) -> str:
    rows = []
    for name, route in found["routes"].items():
        p50 = (f"{route['p50'][of]:.2f}" for of in ("empty", "large"))
        rows.append((name, *p50, _ratio(route["large"]), _ratio(route["again"])))
    return table(("p50", "almost empty, ms", "large, ms", "ratio", "noise: almost empty twice"), rows)


def _ratio(figures: list[float]) -> str:
    middle, least, most = figures
    return f"{middle:.2f} ({least:.2f} to {most:.2f})"


def _statements(found: dict[str, Any]) -> str:
    rows = [
        (
            name,
            str(row["small"]["pages"]),
            str(row["large"]["pages"]),
            f"{row['large']['pages'] - row['small']['pages']:+}",
            f"{allowed(found['statements'], name):+}" + ("" if kept(found["statements"], name) else " **missed**"),
        )
        for name, row in found["statements"]["statements"].items()
    ]
    return table(("pages touched", "almost empty", "large", "growth", "depth explains"), rows)


def _levels(found: dict[str, Any]) -> str:
    rows = [(name, str(small), str(large)) for name, (small, large) in sorted(found["statements"]["levels"].items())]
    return table(("levels above the leaves", "almost empty", "large"), rows)


# --- The plot. ---

WIDTH, LEFT, TOP, ROW, LOWEST, HIGHEST = 760, 130, 74, 30, 0.8, 1.4
FONT = 'font-family="sans-serif" font-size="13"'


def svg(found: dict[str, Any]) -> str:
    """Each route's ratio, the noise below it, and the goal as a line."""
    routes = found["routes"]
    bottom = TOP + ROW * len(routes)
    size = f"{found['size']['users']:,} users and {found['size']['sessions']:,} sessions"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 46}" role="img" {FONT}>',
        f"<title>p50 of each route with {size}, as a multiple of an almost empty database</title>",
        f'<rect width="{WIDTH}" height="{bottom + 46}" fill="#fff"/>',
        f'<text x="16" y="26" font-size="15" font-weight="bold">p50 with {size},</text>',
        '<text x="16" y="46">as a multiple of an almost empty database (with the spread of five parts)</text>',
        *(_gridline(tenths / 10, bottom) for tenths in range(8, 15)),
    ]
    for number, (name, route) in enumerate(routes.items()):
        y = TOP + ROW * number + ROW // 2
        parts.append(f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{name}</text>')
        parts += _bar(route["again"], y + 5, "#9aa3ad")
        parts += _bar(route["large"], y - 5, "#1f6feb")
    legend = (("#1f6feb", "large", LEFT), ("#9aa3ad", "almost empty, a second service: the noise", LEFT + 90))
    for color, text, x in legend:
        parts.append(f'<circle cx="{x}" cy="{bottom + 34}" r="4" fill="{color}"/>')
        parts.append(f'<text x="{x + 10}" y="{bottom + 38}">{text}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _x(ratio: float) -> float:
    inside = min(max(ratio, LOWEST), HIGHEST)
    return round(LEFT + (inside - LOWEST) / (HIGHEST - LOWEST) * (WIDTH - LEFT - 30), 1)


def _gridline(ratio: float, bottom: int) -> str:
    goal = ratio == ROUTE_LIMIT
    x, color = _x(ratio), "#cf222e" if goal else "#d8dee4"
    label = f"{ratio:.1f}" + (" goal" if goal else "")
    return (
        f'<line x1="{x}" y1="{TOP - 6}" x2="{x}" y2="{bottom}" stroke="{color}"/>'
        f'<text x="{x}" y="{bottom + 16}" text-anchor="middle" font-size="11" fill="#57606a">{label}</text>'
    )


def _bar(figures: list[float], y: int, color: str) -> list[str]:
    middle, least, most = (_x(value) for value in figures)
    return [
        f'<line x1="{least}" y1="{y}" x2="{most}" y2="{y}" stroke="{color}" stroke-width="2"/>',
        f'<circle cx="{middle}" cy="{y}" r="4" fill="{color}"/>',
    ]
