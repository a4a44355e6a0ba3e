"""What a search with two aims leaves: the points that no other beats in both, and how much of the plane they beat."""

from collections.abc import Sequence

Point = tuple[float, float]


def nondominated(points: Sequence[Point]) -> list[int]:
    """Places of the points than which no other is better in one aim and at least as good in the other; less is better.

    By the first aim, the best first; of equal points the first one.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i], i))
    found: list[int] = []
    for i in order:
        if not found or points[i][1] < points[found[-1]][1]:
            found.append(i)
    return found


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Area of the plane that lies between the front of some points and a reference worse than them; 0 when none is better than it.

    For two aims of which less is better (Zitzler and Thiele 1998). Points beyond the reference in either aim count nothing.
    """
    near = [point for point in points if point[0] < reference[0] and point[1] < reference[1]]
    area, height = 0.0, reference[1]
    for i in nondominated(near):
        area += (reference[0] - near[i][0]) * (height - near[i][1])
        height = near[i][1]
    return area
