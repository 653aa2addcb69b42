"""Draws the completion curves of pages that `--html` wrote beside each other, as one SVG that stands alone.

python3 picture.py PICTURE.svg 'TITLE=PAGE.html' ...      The forms of all pages have to be the same, without and with.
"""

import re
import sys
from html import escape

WIDTH, HEIGHT, LEFT, TOP, APART = 290, 200, 48, 64, 56
COLOURS = {"v0": "#0067a8", "v1": "#c9510c"}


def plot(page, left):
    """The page's first chart, which is that of completion, in pixels."""
    chart = re.search(r'<svg class="chart".*?</svg>\n</svg>', page, re.S).group()
    parts = []
    for share in range(0, 101, 25):
        y = TOP + HEIGHT * (1 - share / 100)
        parts.append(f'<path stroke="{"#8b9199" if share == 0 else "#dcdfe2"}" d="M{left} {y}h{WIDTH}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{share} %</text>')
    for at, label in re.findall(r'<text x="([\d.]+)%"[^>]*>([^<]+)</text>', chart):
        x = left + WIDTH * float(at) / 100
        parts.append(f'<path stroke="#8b9199" d="M{x} {TOP + HEIGHT}v5"/>')
        parts.append(f'<text x="{x}" y="{TOP + HEIGHT + 20}" text-anchor="middle">{label}</text>')
    for kind, form, path in re.findall(r'<path class="(thin|pooled) (v\d)" d="([^"]+)"', chart):
        # A page's curves are 1000 wide and high, and made of these three only.
        scaled = re.sub(r"M0 1000", f"M{left} {TOP + HEIGHT}", path)
        scaled = re.sub(r"H([\d.]+)", lambda x: f"H{left + float(x[1]) / 1000 * WIDTH:.1f}", scaled)
        scaled = re.sub(r"V([\d.]+)", lambda y: f"V{TOP + float(y[1]) / 1000 * HEIGHT:.1f}", scaled)
        look = 'stroke-width="1" opacity="0.3"' if kind == "thin" else 'stroke-width="2.5" stroke-linejoin="round"'
        dashes = ' stroke-dasharray="9 3"' if (kind, form) == ("pooled", "v1") else ""
        parts.append(f'<path stroke="{COLOURS[form]}" {look}{dashes} d="{scaled}"/>')
    return parts


def main(picture, *plots):
    width, height = LEFT + len(plots) * (WIDTH + APART) - APART + 24, TOP + HEIGHT + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, Roboto, Arial, sans-serif" font-size="12" fill="none">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        '<g fill="#5a6068">',
    ]
    for at, (form, dashes, name) in enumerate([("v0", "", "without memory"), ("v1", "9 3", "with memory")]):
        x = LEFT + at * 150
        parts.append(f'<path stroke="{COLOURS[form]}" stroke-width="2.5" stroke-dasharray="{dashes or "none"}" d="M{x} 14h28"/>')
        parts.append(f'<text x="{x + 36}" y="18">{name}</text>')
    for at, (title, page) in enumerate(plot.split("=", 1) for plot in plots):
        left = LEFT + at * (WIDTH + APART)
        parts.append(f'<text x="{left}" y="46" fill="#1c1f23" font-weight="600">{escape(title)}</text>')
        with open(page, encoding="utf-8") as file:
            parts.append(f'<g>{chr(10).join(plot(file.read(), left))}</g>'.replace("<path", '<path fill="none"'))
    with open(picture, "w", encoding="utf-8") as file:
        file.write("\n".join(parts) + "\n</g>\n</svg>\n")


main(*sys.argv[1:])
