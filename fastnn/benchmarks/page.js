"use strict";

// Tables: a click on a header sorts by its column, a second one the other way round. Empty cells stay at the end.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  headers.forEach((header, column) => {
    const numbers = header.classList.contains("number");
    const value = (row) => {
      const text = row.cells[column].dataset.sort;
      return numbers && text !== "" ? Number(text) : text;
    };
    header.querySelector("button").addEventListener("click", () => {
      const down = header.getAttribute("aria-sort") === "ascending";
      for (const other of headers) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((first, second) => {
        const [a, b] = [value(first), value(second)];
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = numbers ? a - b : a.localeCompare(b);
        return down ? -order : order;
      });
      body.append(...rows);
    });
  });
}

// Plots: their colors are those of the page, which differ in the dark and on paper.
const figures = JSON.parse(document.getElementById("figures").textContent);
const plots = [...document.querySelectorAll(".plot")];
const scheme = window.matchMedia("(prefers-color-scheme: dark)");
const touch = window.matchMedia("(pointer: coarse)");

function paint() {
  const style = getComputedStyle(document.documentElement);
  const [paper, ink, faint, line] = ["paper", "ink", "faint", "line"].map((name) => style.getPropertyValue(`--${name}`).trim());
  plots.forEach((plot, index) => {
    figures[index].data.forEach((trace, number) => {
      const { limit, noisy } = trace.meta;
      if (limit) Plotly.restyle(plot, { "line.color": faint, "textfont.color": faint }, [number]);
      else Plotly.restyle(plot, { "marker.color": [noisy.map((is) => (is ? paper : trace.line.color))] }, [number]);
    });
    Plotly.relayout(plot, {
      "font.color": ink, "xaxis.gridcolor": line, "yaxis.gridcolor": line, "xaxis.linecolor": faint, "yaxis.linecolor": faint,
      "hoverlabel.bgcolor": paper, "hoverlabel.font.color": ink,
    });
  });
}

async function draw() {
  const options = { responsive: true, displayModeBar: false };
  await Promise.all(plots.map((plot, index) => {
    const { data, layout } = figures[index];
    // Where fingers scroll the page, they do not zoom a plot.
    return Plotly.newPlot(plot, data, { ...layout, dragmode: touch.matches ? false : "zoom" }, options);
  }));
  paint();
  scheme.addEventListener("change", paint);
  window.addEventListener("beforeprint", paint);
  window.addEventListener("afterprint", paint);
}

for (const button of document.querySelectorAll(".keys button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    plots.forEach((plot, index) => {
      const which = figures[index].data.flatMap((trace, number) => (trace.meta.contestant === button.dataset.contestant ? [number] : []));
      if (which.length) Plotly.restyle(plot, { visible: shown }, which);
    });
  });
}

draw();
