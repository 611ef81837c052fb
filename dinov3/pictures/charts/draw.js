"use strict";
(function () {
  const height = 210;
  const digits = (value) => (value == null ? "" : Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 }));

  function draw(place, panel) {
    const tables = panel.lines.map((line) => [line.x, line.y]);
    const data = tables.length > 1 ? uPlot.join(tables) : tables[0];
    const series = panel.lines.map((line) => ({
      label: line.label,
      stroke: line.colour,
      width: 1.6,
      spanGaps: true, // runs that log at other steps share one axis
      points: { show: panel.dots || data[0].length < 2 },
      value: (chart, value) => digits(value),
    }));
    const axis = { stroke: "#5b6672", grid: { stroke: "#e8ebee", width: 1 }, ticks: { stroke: "#e8ebee" }, font: "11px system-ui" };
    const chart = new uPlot(
      {
        width: place.clientWidth,
        height: height,
        cursor: { sync: { key: "step" }, drag: { x: true, y: false } },
        scales: { x: { time: false } },
        series: [{ label: "step", value: (chart, value) => (value == null ? "" : value.toLocaleString("en")) }, ...series],
        axes: [axis, { ...axis, size: 68, values: (chart, ticks) => ticks.map(digits) }],
      },
      data,
      place,
    );
    new ResizeObserver(() => chart.setSize({ width: place.clientWidth, height: height })).observe(place);
  }

  const panels = JSON.parse(document.getElementById("panels").textContent);
  document.querySelectorAll("[data-panel]").forEach((place) => draw(place, panels[Number(place.dataset.panel)]));
})();
