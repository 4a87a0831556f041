"""The picture of the results, as SVG: for each route its limit, the service's part of it, and the goal."""

from __future__ import annotations

from bench.report import Results, by_rate, measured_routes, median
from bench.routes import Route

WIDTH, LEFT, BAR = 760, 112, 380
TOP, ROW = 64, 34

# A page that shows the picture by <img> cannot style it, so it asks for the scheme itself, and has its own background.
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .quiet { fill: #59636e } .back { fill: #ffffff } .limit { fill: #dfe3e8 } .service { fill: #2f6fdb }
  .spread { stroke: #1f2328; stroke-width: 1.5 } .goal { stroke: #bc4c00; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .quiet { fill: #9198a1 } .back { fill: #0d1117 } .limit { fill: #2d333b }
    .service { fill: #4184f3 } .spread { stroke: #e6edf3 } .goal { stroke: #f0883e }
  }
"""


def svg(results: Results) -> str:
    """The whole picture."""
    routes = measured_routes(results)
    height = TOP + ROW * len(routes) + 30
    rows = "".join(_row(results, route, TOP + ROW * number) for number, route in enumerate(routes))
    settings, machine = results["settings"], results["machine"]
    foot = (
        f"Medians of {settings['rounds']} rounds in turns, with their spread; {settings['workers']} workers and "
        f"everything else on {machine['cores']} cores; {results['date']}."
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-labelledby="title">\n'
        '<title id="title">Requests per second of the service, as a part of what its limit answers</title>\n'
        f"<style>{STYLE}</style>\n"
        f'<rect class="back" width="{WIDTH}" height="{height}" rx="6"/>\n'
        + _text(16, 26, "Requests per second, as a part of the limit of the same stack")
        + _text(
            16, 45, "Limit: the same SQL, Redis commands and mail and nothing else; for health bare Flask.", "quiet"
        )
        + rows
        + _text(16, height - 12, foot, "quiet")
        + "</svg>\n"
    )


def _row(results: Results, route: Route, y: int) -> str:
    ratio = by_rate(results, route)
    own, limit = (median(results, route.name, name, "requests_per_second") for name in ("service", route.base))
    low, high, goal = (_x(part) for part in (min(ratio.rounds), max(ratio.rounds), route.goal))
    return (
        _text(16, y + 19, route.name)
        + _rect("limit", y, BAR)
        + _rect("service", y, _x(ratio.median) - LEFT)
        + f'<path class="spread" d="M{low:.1f} {y + 15}H{high:.1f}"/>\n'
        + f'<path class="goal" d="M{goal:.1f} {y + 3}V{y + 27}"/>\n'
        + _text(LEFT + BAR + 12, y + 19, f"{ratio.median:.2f}")
        + _text(LEFT + BAR + 52, y + 19, f"{own:,.0f} of {limit:,.0f}/s, goal {route.goal:.2f}", "quiet")
    )


def _x(part: float) -> float:
    return LEFT + BAR * min(part, 1.0)


def _rect(name: str, y: int, width: float) -> str:
    return f'<rect class="{name}" x="{LEFT}" y="{y + 5}" width="{width:.1f}" height="20" rx="2"/>\n'


def _text(x: int, y: int, text: str, name: str = "") -> str:
    style = f' class="{name}"' if name else ""
    return f'<text{style} x="{x}" y="{y}">{text}</text>\n'
