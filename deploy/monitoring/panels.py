"""Panels and dashboards in Grafana's own form."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

_SCHEMA: Final = 39
"""Of dashboards, as Grafana 11 writes them; later ones read it."""
_COLUMNS: Final = 24
_HEIGHTS: Final = {"stat": 4, "timeseries": 8, "table": 8}
_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}

Kind = Literal["stat", "timeseries", "table"]
Colour = Literal["green", "yellow", "red", "blue"]
Limits = Sequence[tuple[float, Colour]]
"""Values from which on a panel has a colour; below the first it is green."""


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL query and the legend of its series; `{{label}}` is replaced by the label's value."""

    text: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel."""

    title: str
    description: str
    """Says what is read off it, and when to worry."""
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = "timeseries"
    width: int = 8
    limits: Limits = ()
    base: Colour = "green"
    """Colour below the first limit."""
    stacked: bool = False
    top: float | None = None
    """Largest value of the axis; Grafana's choice without one."""
    texts: dict[str, tuple[str, Colour]] = field(default_factory=dict)
    """Words and colours in the place of values."""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard; its address in Grafana ends in `headrace-SLUG`."""

    slug: str
    title: str
    description: str
    rows: tuple[Row, ...]
    one_worker: bool = False
    """Shows one worker at a time."""

    @property
    def panels(self) -> list[Panel]:
        """The panels of all rows."""
        return [panel for row in self.rows for panel in row.panels]

    def rendered(self, variable_metric: str, annotation: str) -> dict[str, Any]:
        """The dashboard as Grafana reads it.

        Args:
            variable_metric: a series of every worker, whose labels are to choose from.
            annotation: a query that is above 0 where a vertical line is to be drawn.
        """
        return {
            "uid": f"headrace-{self.slug}",
            "title": self.title,
            "description": self.description,
            "tags": ["headrace"],
            "schemaVersion": _SCHEMA,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "",
            "links": [_link()],
            "annotations": {"list": [_annotation(annotation)]},
            "templating": {"list": _variables(variable_metric, several_workers=not self.one_worker)},
            "panels": list(self._placed()),
        }

    def places(self) -> Iterator[tuple[Panel | None, tuple[int, int, int, int]]]:
        """Panels with column, row, width and height, from the left to the right and from the top down.

        None in the place of a panel is the heading of a row.
        """
        top = 0
        for row in self.rows:
            yield None, (0, top, _COLUMNS, 1)
            top, left, height = top + 1, 0, 0
            for panel in row.panels:
                if left + panel.width > _COLUMNS:
                    top, left, height = top + height, 0, 0
                yield panel, (left, top, panel.width, _HEIGHTS[panel.kind])
                left, height = left + panel.width, max(height, _HEIGHTS[panel.kind])
            top += height

    def _placed(self) -> Iterator[dict[str, Any]]:
        headings = iter(self.rows)
        for number, (panel, (left, top, width, height)) in enumerate(self.places(), start=1):
            place = {"id": number, "gridPos": {"x": left, "y": top, "w": width, "h": height}}
            if panel is None:
                yield place | {"type": "row", "title": next(headings).title, "collapsed": False, "panels": []}
            else:
                yield place | _panel(panel)


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "targets": [_target(panel, number, query) for number, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
        "transformations": [{"id": "merge", "options": {}}] if panel.kind == "table" else [],
    }


def _target(panel: Panel, number: int, query: Query) -> dict[str, Any]:
    table = panel.kind == "table"
    return {
        "refId": chr(ord("A") + number),
        "datasource": _SOURCE,
        "expr": query.text,
        "legendFormat": query.legend,
        "format": "table" if table else "time_series",
        "instant": table,
        "range": not table,
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": panel.base, "value": None}]
    steps += [{"color": colour, "value": value} for value, colour in panel.limits]
    mappings = {value: {"text": text, "color": colour} for value, (text, colour) in panel.texts.items()}
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
        "mappings": [{"type": "value", "options": mappings}] if mappings else [],
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
    }
    if panel.top is not None:
        defaults["max"] = panel.top
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 40 if panel.stacked else 8,
            "lineWidth": 1,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.limits else "off"},
        }
    return defaults


_OPTIONS: Final[dict[Kind, dict[str, Any]]] = {
    "stat": {
        "colorMode": "background",
        "graphMode": "area",
        "justifyMode": "auto",
        "textMode": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    },
    "timeseries": {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
}


def _link() -> dict[str, Any]:
    """The other dashboards, with the same time and choices."""
    return {
        "title": "Headrace",
        "type": "dashboards",
        "tags": ["headrace"],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "icon": "external link",
        "targetBlank": False,
        "tooltip": "",
        "url": "",
    }


def _annotation(query: str) -> dict[str, Any]:
    return {
        "name": "release goes live",
        "datasource": _SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": "blue",
        "expr": query,
        "titleFormat": "{{instance}}: a release goes live",
    }


def _variables(metric: str, *, several_workers: bool) -> list[dict[str, Any]]:
    source = {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus", "hide": 0}
    in_deployments = f'{metric}{{deployment=~"$deployment"}}'
    return [
        source,
        _variable("deployment", "Deployment", f"label_values({metric}, deployment)", several=True),
        _variable("worker", "Worker", f"label_values({in_deployments}, instance)", several=several_workers),
    ]


def _variable(name: str, label: str, query: str, *, several: bool) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"variable-{name}"},
        "refresh": 2,
        "sort": 1,
        "multi": several,
        "includeAll": several,
        "allValue": ".+" if several else None,
        "current": {"text": ["All"], "value": ["$__all"]} if several else {},
    }
