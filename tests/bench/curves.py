"""Curves as pictures: both axes logarithmic, as SVG. Needs nothing but Python's
standard library.
"""
import html
import math

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 56, 52
COLOURS = ("#2563eb", "#d97706", "#059669", "#be185d")
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #374151 }
.title { font-size: 14px; font-weight: 600 }
.grid { stroke: #e5e7eb }
.line { fill: none; stroke-width: 2 } .spread { fill-opacity: .15 }
.page { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  .page { fill: #111827 } text { fill: #d1d5db } .grid { stroke: #374151 }
}"""


def decades(low, high):
    """Powers of ten around [low, high]."""
    return range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)


def label(exponent):
    if exponent < 0:
        return f"{10.0 ** exponent:g}"
    return {3: "1 k", 4: "10 k", 5: "100 k", 6: "1 M"}.get(exponent, str(10 ** exponent))


def picture(title, x_name, y_name, series):
    """`series`: {name: [(x, median, low, high), ...]}, all > 0, by x."""
    points = [p for line in series.values() for p in line]
    xs = decades(min(p[0] for p in points), max(p[0] for p in points))
    ys = decades(min(p[2] for p in points), max(p[3] for p in points))

    def at(value, axis, begin, end):
        share = (math.log10(value) - axis[0]) / max(1, axis[-1] - axis[0])
        return begin + share * (end - begin)

    def x(value):
        return at(value, xs, LEFT, WIDTH - RIGHT)

    def y(value):
        return at(value, ys, HEIGHT - BOTTOM, TOP)

    def place(px, py):
        return f"{x(px):.1f},{y(py):.1f}"

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
           f"<title>{html.escape(title)}</title><style>{STYLE}</style>",
           f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>',
           f'<text class="title" x="{LEFT}" y="20">{html.escape(title)}</text>']
    for e in xs:
        out.append(f'<line class="grid" x1="{x(10.0 ** e):.1f}" x2="{x(10.0 ** e):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
                   f'<text x="{x(10.0 ** e):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{label(e)}</text>')
    for e in ys:
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(10.0 ** e):.1f}" y2="{y(10.0 ** e):.1f}"/>'
                   f'<text x="{LEFT - 8}" y="{y(10.0 ** e) + 4:.1f}" text-anchor="end">{label(e)}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{html.escape(x_name)}</text>'
               f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{html.escape(y_name)}</text>')
    legend = LEFT
    for i, (name, line) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        around = [place(p[0], p[3]) for p in line] + [place(p[0], p[2]) for p in reversed(line)]
        out.append(f'<polygon class="spread" fill="{colour}" points="{" ".join(around)}"/>'
                   f'<polyline class="line" stroke="{colour}" points="{" ".join(place(p[0], p[1]) for p in line)}"/>')
        out += [f'<circle fill="{colour}" cx="{x(p[0]):.1f}" cy="{y(p[1]):.1f}" r="3"><title>{html.escape(name)}: {p[1]:.3g} at {p[0]:,}</title></circle>'
                for p in line]
        out.append(f'<text x="{legend}" y="42" style="fill:{colour}">{html.escape(name)}</text>')
        legend += 7 * len(name) + 20
    return "\n".join(out) + "\n</svg>\n"
