// What a report does in the browser: draws its figures, sorts its table, gets ready for printing.
"use strict";

const figures = JSON.parse(document.getElementById("figures").textContent);
const config = {
  displaylogo: false,
  responsive: true,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
};
const PRINT_WIDTH_PX = 1000; // of A4 on its side, less the margins
const DIM = 0.06;

// Plotly comes packed in the page. A script element may hold what it is unpacked to; eval may not.
async function unpacked(id) {
  const packed = atob(document.getElementById(id).textContent);
  const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

// One figure at a time, so that the page can be read and scrolled while the later ones are drawn.
const names = Object.keys(figures);
function drawFrom(index) {
  if (index === names.length) {
    document.documentElement.dataset.drawn = String(names.length);
    return;
  }
  const place = document.getElementById(names[index]);
  const { data, layout } = figures[names[index]];
  const small = place.closest(".slices") || names[index] === "parallel";
  Plotly.newPlot(place, data, layout, small ? { ...config, displayModeBar: false } : config).then(() => {
    if (names[index] === "parallel") brushed(place);
    setTimeout(drawFrom, 0, index + 1);
  });
}

// Parallel coordinates: drag a box over a part of an axis, and only the lines through it stay.
function brushed(place) {
  const lines = place.data.map((_, index) => index);
  const show = (kept) =>
    Plotly.restyle(place, { opacity: lines.map((at) => (kept.has(at) ? 1 : DIM)) }, lines);
  place.on("plotly_selected", (event) => {
    if (!event || !event.range) return;
    const [left, right] = event.range.x.slice().sort((a, b) => a - b);
    const [low, high] = event.range.y.slice().sort((a, b) => a - b);
    const axis = Math.round((left + right) / 2); // the one that is nearest to the box
    const inside = (value) => value >= low && value <= high;
    show(new Set(lines.filter((at) => inside(place.data[at].y[axis]))));
    Plotly.restyle(place, { selectedpoints: [null] });
  });
  place.on("plotly_deselect", () => show(new Set(lines)));
}

// A click on a heading sorts by it, numbers as numbers; another click turns the order round.
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) =>
    head.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].sort((first, second) => {
        const [a, b] = [key(first), key(second)];
        if (a === "" || b === "") return (a === "") - (b === ""); // what is not there comes last
        const order = a - b || (isNaN(a - b) ? a.localeCompare(b) : 0);
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    }),
  );
}

function fitted(width) {
  for (const name of names) {
    const place = document.getElementById(name);
    const share = place.closest(".slices") ? 3 : 1;
    if (place.data) Plotly.relayout(place, width ? { width: width / share } : { autosize: true });
  }
}

document.querySelectorAll("table.sortable").forEach(sortable);
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((part) => (part.open = true));
  fitted(PRINT_WIDTH_PX);
});
addEventListener("afterprint", () => fitted(null));
unpacked("plotly").then(() => drawFrom(0));
