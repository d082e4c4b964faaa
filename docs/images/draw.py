"""Draw the diagrams of the design pages: ``python docs/images/draw.py`` writes the SVG files beside it.

Tiles and regions are those of a real `geotile.TileGrid`. Colours and grey text stand out on white and on black pages.
"""

from __future__ import annotations

from pathlib import Path

import geotile

HERE = Path(__file__).parent
TEXT, LINE = "#7d8590", "#7d8590"
BLUE, ORANGE, GREEN, PINK, VIOLET = "#3d8fd1", "#d98e04", "#2e9e5b", "#d6408b", "#8957e5"
REGIONS = (BLUE, GREEN, VIOLET, ORANGE)


class Drawing:
    """A drawing, made of parts, with a size in pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height, self.parts = width, height, []

    def box(self, x, y, w, h, stroke=LINE, fill="none", opacity=0.15, line=1.5, dash="") -> None:
        """Add a rectangle."""
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" stroke="{stroke}" fill="{fill}" '
            f'fill-opacity="{opacity}" stroke-width="{line}"{dashes}/>'
        )

    def text(self, x, y, text, colour=TEXT, size=13, anchor="start") -> None:
        """Add a line of text."""
        self.parts.append(
            f'<text x="{x}" y="{y}" fill="{colour}" font-size="{size}" text-anchor="{anchor}">{text}</text>'
        )

    def dot(self, x, y, colour, r=4) -> None:
        """Add a dot."""
        self.parts.append(f'<circle cx="{x}" cy="{y}" r="{r}" fill="{colour}"/>')

    def arrow(self, x0, y0, x1, y1, colour=LINE) -> None:
        """Add an arrow."""
        self.parts.append(
            f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="{colour}" stroke-width="1.5" '
            'marker-end="url(#tip)"/>'
        )

    def write(self, name: str, title: str) -> None:
        """Write the file."""
        tip = (
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>'
        )
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" font-family="system-ui, sans-serif"><title>{title}</title>'
        )
        (HERE / name).write_text("\n".join([head + tip, *self.parts, "</svg>", ""]), encoding="utf-8")


def tile_ownership() -> None:
    """Draw which region owns which tile: that of its upper-left pixel."""
    grid, drawing = geotile.TileGrid((300, 300), 90, 20, ((150, 150), (150, 150))), Drawing(640, 345)
    drawing.box(10, 10, 300, 300)
    for number, window in grid.tiles():
        row, column = grid.region_of(*divmod(number, grid.tiles_yx[1]))
        colour = REGIONS[2 * row + column]
        drawing.box(10 + window.x0, 10 + window.y0, *window.shape_yx[::-1], colour, colour, 0.06, 1)
        drawing.dot(15 + window.x0, 15 + window.y0, colour)
    for middle in (160,):
        drawing.parts.append(f'<path d="M{middle} 10v300M10 {middle}h300" stroke="{LINE}" stroke-width="3"/>')
    drawing.text(10, 332, f"{grid.n_tiles} tiles of 90 x 90 px, 4 regions of 150 x 150 px")
    for i, name in enumerate(("upper left", "upper right", "lower left", "lower right")):
        drawing.dot(340, 60 + 26 * i, REGIONS[i])
        drawing.text(352, 65 + 26 * i, f"tiles of the {name} region")
    drawing.text(340, 190, "The dot is the first pixel of a tile,")
    drawing.text(340, 210, "and decides which region owns it.")
    drawing.write("tile-ownership.svg", "Each tile belongs to the region that holds its upper-left pixel")


def halo() -> None:
    """Draw a region, its tiles, and the pixels beyond it that they need."""
    grid, drawing = geotile.TileGrid((300, 300), 90, 20, ((150, 150), (150, 150))), Drawing(640, 345)
    read, own = grid.read_window(0, 0), grid.region_window(0, 0)
    drawing.box(10, 10, 300, 300)
    drawing.box(10, 10, *read.shape_yx[::-1], ORANGE, ORANGE, 0.3, 1.5, "6 4")
    drawing.box(10, 10, *own.shape_yx[::-1], BLUE, BLUE, 0.45, 2)
    for _, window in grid.region_tiles(0, 0):
        drawing.box(10 + window.x0, 10 + window.y0, *window.shape_yx[::-1], LINE, "none", 0, 1.2)
    drawing.text(340, 60, "the region", BLUE)
    drawing.text(340, 86, "its halo: pixels that its tiles need", ORANGE)
    drawing.text(340, 112, f"{len(grid.region_tiles(0, 0))} tiles that it owns (thin lines)")
    drawing.text(340, 150, "The halo lies to the right and below only,")
    drawing.text(340, 170, "since tiles begin in their own region.")
    drawing.text(
        10,
        332,
        f"the task reads {read.shape_yx[1]} x {read.shape_yx[0]} px for {own.shape_yx[1]} x {own.shape_yx[0]} px",
    )
    drawing.write("halo.svg", "A region and its halo")


def exposed() -> None:
    """Draw the interior of a region, and detections that are settled, exposed, and open because of an open one."""
    grid, drawing = geotile.TileGrid((300, 300), 40, 10, ((70, 160, 70), (70, 160, 70))), Drawing(720, 345)
    inside, own = grid.interior((1, 2), (1, 2)), grid.region_window(1, 1)
    x, y, w, h = inside.x0 + 10, inside.y0 + 10, inside.x1 - inside.x0, inside.y1 - inside.y0
    drawing.box(10, 10, 300, 300)
    drawing.box(10 + own.x0, 10 + own.y0, *own.shape_yx[::-1], BLUE, "none", 0, 3)
    drawing.box(x, y, w, h, GREEN, GREEN, 0.15, 1.5, "6 4")
    for left, top, wide, high, colour in (
        (x + 16, y + 12, 26, 16, GREEN), (x + 40, y + h - 40, 18, 24, GREEN), (x + 58, y + 10, 20, 14, GREEN),
        (x - 14, y + 40, 34, 18, ORANGE), (x + w - 18, y + 46, 32, 18, ORANGE), (x + w - 36, y + 52, 26, 18, PINK),
    ):  # fmt: skip
        drawing.box(left, top, wide, high, colour, colour, 0.4, 2)
    for row, (text, colour) in enumerate((
        ("a region", BLUE), ("its interior: no tile of another region reaches it", GREEN), ("", TEXT),
        ("settled: nothing elsewhere can change it", GREEN),
        ("exposed: it is not inside the interior, so a tile of", ORANGE),
        ("another region may show the same object", ORANGE),
        ("open too: it matches an exposed one that ranks higher,", PINK),
        ("so what becomes of it depends on that one", PINK),
        ("", TEXT), ("Open detections go up the tree; settled ones leave it.", TEXT),
    )):  # fmt: skip
        drawing.text(335, 40 + 24 * row, text, colour)
    drawing.text(10, 332, f"{grid.n_regions} regions, {grid.n_tiles} tiles of 40 x 40 px that overlap by at least 10")
    drawing.write("exposed.svg", "Settled, exposed and open detections of a region")


def tree() -> None:
    """Draw the merging tree of eight regions: what stays open shrinks to nothing at the root."""
    drawing = Drawing(700, 300)
    for level, count in enumerate((8, 4, 2, 1)):
        step = 560 / count
        for i in range(count):
            x, y = 10 + step * (i + 0.5), 240 - 70 * level
            share = (0.5, 0.35, 0.22, 0.0)[level]
            drawing.box(round(x - 28), y, 56, 26, GREEN, GREEN, 0.35)
            if share:
                drawing.box(round(x + 28 - 56 * share, 1), y, 56 * share, 26, ORANGE, ORANGE, 0.9)
                drawing.arrow(round(x), y - 2, round(10 + 2 * step * (i // 2 + 0.5)), y - 42)
    for y, name in ((257, "regions"), (187, "pairs"), (117, "fours"), (47, "root")):
        drawing.text(590, y, name)
    drawing.text(10, 290, "settled: leaves the tree", GREEN)
    drawing.text(220, 290, "open: compared again one level up", ORANGE)
    drawing.write("merging-tree.svg", "The merging tree: open detections travel up, settled ones leave it")


def seams() -> None:
    """Draw three cases at the seam of two tiles: a part beside a whole, two parts, a small object on a large one."""
    drawing = Drawing(700, 280)
    cases = (
        ("a part and the whole", "the part is dropped"),
        ("two parts of one object", "they are joined"),
        ("a small object on a large one", "both are kept"),
    )
    for i, (title, result) in enumerate(cases):
        left = 10 + 232 * i
        drawing.box(left, 40, 120, 150, BLUE, BLUE, 0.10)
        drawing.box(left + 85, 40, 120, 150, VIOLET, VIOLET, 0.10)
        drawing.text(left, 28, title)
        drawing.text(left, 215, result, GREEN)
    drawing.box(106, 78, 64, 34, GREEN, GREEN, 0.25, 2)
    drawing.box(106, 80, 24, 30, PINK, PINK, 0.35, 2)
    drawing.box(262, 78, 100, 34, PINK, PINK, 0.25, 2)
    drawing.box(327, 80, 100, 30, PINK, PINK, 0.25, 2)
    drawing.box(258, 74, 173, 42, GREEN, "none", 0, 2, "6 4")
    drawing.box(490, 70, 92, 80, GREEN, GREEN, 0.2, 2)
    drawing.box(515, 92, 24, 16, GREEN, GREEN, 0.5, 2)
    drawing.text(10, 250, "left tile", BLUE)
    drawing.text(80, 250, "right tile", VIOLET)
    drawing.text(165, 250, "cut at a seam of its tile", PINK)
    drawing.text(345, 250, "in the result", GREEN)
    drawing.write("seams.svg", "What the default merge makes of objects at a seam")


def concurrency() -> None:
    """Draw the processes and threads of a run on a cluster, and the limit of requests."""
    drawing = Drawing(700, 330)
    drawing.box(10, 20, 150, 60)
    drawing.text(85, 46, "your process", anchor="middle")
    drawing.text(85, 66, "geotile.detect", size=12, anchor="middle")
    drawing.box(250, 20, 190, 60, ORANGE, ORANGE)
    drawing.text(345, 44, "Dask scheduler", ORANGE, anchor="middle")
    drawing.text(345, 64, "coordinator: one limit", ORANGE, 12, "middle")
    drawing.arrow(160, 50, 248, 50)
    drawing.text(204, 42, "graph", size=11, anchor="middle")
    for i, y in enumerate((120, 225)):
        drawing.box(10, y, 430, 90, BLUE)
        drawing.text(20, y + 18, f"worker {i + 1}", BLUE, 12)
        drawing.box(20, y + 30, 120, 44, BLUE, BLUE)
        drawing.text(80, y + 49, "a region per", BLUE, 12, "middle")
        drawing.text(80, y + 65, "Dask thread", BLUE, 12, "middle")
        drawing.box(165, y + 30, 120, 44, GREEN, GREEN)
        drawing.text(225, y + 49, "tile threads:", GREEN, 12, "middle")
        drawing.text(225, y + 65, "encode, send", GREEN, 12, "middle")
        drawing.box(310, y + 30, 110, 44, ORANGE, ORANGE)
        drawing.text(365, y + 49, "gate: waits for", ORANGE, 12, "middle")
        drawing.text(365, y + 65, "its allowance", ORANGE, 12, "middle")
        drawing.arrow(140, y + 52, 163, y + 52)
        drawing.arrow(285, y + 52, 308, y + 52)
        drawing.arrow(420, y + 52, 548, 205 if i == 0 else 235)
    drawing.parts.append(f'<path d="M345 80V148" stroke="{ORANGE}" stroke-width="1.5" stroke-dasharray="4 3"/>')
    drawing.text(355, 104, "allowance, ten times a second", ORANGE, 11)
    drawing.box(550, 185, 145, 70, PINK, PINK)
    drawing.text(622, 216, "the model", PINK, anchor="middle")
    drawing.text(622, 236, "at most the limit at once", PINK, 11, "middle")
    drawing.write("concurrency.svg", "Processes, threads and the limit of requests")


if __name__ == "__main__":
    for draw in (tile_ownership, halo, exposed, tree, seams, concurrency):
        draw()
