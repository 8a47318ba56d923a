"use strict";
(() => {
  const style = () => getComputedStyle(document.documentElement);

  // "var(--accent)" -> the colour that the page has for it now.
  const resolved = (value, css) => {
    if (typeof value === "string") {
      const name = /^var\((--[a-z0-9-]+)\)$/.exec(value);
      return name ? css.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => resolved(item, css));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolved(item, css)]));
    return value;
  };

  const phone = matchMedia("(max-width: 40rem)");

  const axis = (given) => ({
    gridcolor: "var(--grid)", linecolor: "var(--line)", zerolinecolor: "var(--line)", automargin: true,
    fixedrange: true, ...given, ...(given?.title && { title: { font: { size: 13 }, ...given.title } }),
  });

  const layout = (given, height, picked) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height,
    font: { family: "system-ui, -apple-system, Segoe UI, Roboto, Noto Sans, sans-serif", size: 12.5, color: "var(--soft)" },
    margin: { l: 8, r: 12, t: 12, b: 8 },
    hoverlabel: { bgcolor: "var(--card)", bordercolor: "var(--line)", font: { color: "var(--ink)" }, align: "left" },
    legend: {
      orientation: "h", x: 0, y: 1, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)",
      ...(phone.matches && { font: { size: 11.5 } }),
    },
    ...given,
    // A long legend would fill a phone's screen; the list has the same names.
    ...(phone.matches && picked && { showlegend: false }),
    xaxis: axis(given.xaxis), yaxis: axis(given.yaxis),
  });

  // Traces of the chosen name in full colour, the others pale.
  const highlighted = (data, choice) =>
    data.map((trace) => {
      if (choice === "") return trace;
      const chosen = trace.legendgroup === choice;
      const colour = chosen ? "var(--accent)" : "var(--grid)";
      return {
        ...trace, opacity: 1,
        ...(trace.line && { line: { ...trace.line, color: colour, width: chosen ? 3 : 1 } }),
        ...(trace.marker && { marker: { ...trace.marker, color: chosen ? "var(--mark)" : colour } }),
      };
    });

  const figures = [...document.querySelectorAll(".chart")].map((figure) => ({
    plot: figure.querySelector(".plot"),
    height: parseInt(figure.querySelector(".plot").style.height, 10),
    picker: figure.querySelector("select"),
    given: JSON.parse(figure.querySelector("script").textContent),
  }));

  const draw = ({ plot, picker, given, height }) => {
    const index = picker ? picker.selectedIndex - 1 : -1;
    const data = highlighted(given.data, index < 0 ? "" : String(index));
    // The chosen one lies above the others.
    if (index >= 0) data.sort((a, b) => (a.legendgroup === String(index)) - (b.legendgroup === String(index)));
    const css = style();
    Plotly.react(plot, resolved(data, css), resolved(layout(given.layout, height, picker), css), {
      displayModeBar: false, responsive: true,
    });
  };

  for (const figure of figures) {
    draw(figure);
    figure.picker?.addEventListener("change", () => draw(figure));
  }
  for (const media of [matchMedia("(prefers-color-scheme: dark)"), phone])
    media.addEventListener("change", () => figures.forEach(draw));

  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };
  const empty = (item) => item === "" || Number.isNaN(item);
  const compared = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const body = head.closest("table").tBodies[0];
      const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of head.parentElement.children) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows].map((row) => [value(row, head.cellIndex), row]);
      // Empty cells come last in both orders.
      rows.sort(([a], [b]) => empty(a) - empty(b) || sign * compared(a, b));
      body.append(...rows.map(([, row]) => row));
    });
  }

  // A page that follows a run comes anew, unless somebody is at work in it.
  const seconds = Number(document.body.dataset.refresh);
  const busy = () =>
    document.hidden || document.querySelector("details[open], th:not([aria-sort=none])") ||
    figures.some(({ picker }) => picker && picker.selectedIndex > 0);
  if (seconds) setInterval(() => busy() || location.reload(), 1000 * seconds);
})();
