// Sorts the tables of an evaluation by the column whose head is pressed. Without it they are whole, in their own order.
document.querySelectorAll("table.sortable").forEach((table) => {
  const body = table.tBodies[0], rows = [...body.rows];
  table.querySelectorAll("th button").forEach((button) => button.addEventListener("click", () => {
    const head = button.parentElement, at = head.cellIndex, down = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
    table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
    const value = (row) => { const cell = row.cells[at], v = cell.dataset.v; return v === undefined ? cell.textContent : v === "" ? null : Number(v); };
    const order = ([a], [b]) => a === null ? 1 : b === null ? -1 : typeof a === "number" && typeof b === "number" ? down * (a - b) : down * String(a).localeCompare(String(b));
    rows.map((row) => [value(row), row]).sort(order).forEach(([, row]) => body.append(row));
  }));
});
