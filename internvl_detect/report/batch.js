// Sorts, searches and counts the table of a batch report. Without it the table is whole, in the order of the rows.
const body = document.querySelector("tbody"), rows = [...body.rows], find = document.querySelector("#find"), shown = document.querySelector("#shown");
document.querySelectorAll("th button").forEach((button) => button.addEventListener("click", () => {
  const head = button.parentElement, at = head.cellIndex, down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  document.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
  const value = (row) => { const cell = row.cells[at], v = cell.dataset.v; return v === undefined ? cell.textContent : Number(v); };
  rows.map((row) => [value(row), row]).sort((a, b) => down * (typeof a[0] === "number" ? a[0] - b[0] : a[0].localeCompare(b[0]))).forEach(([, row]) => body.append(row));
}));
const count = () => { shown.textContent = rows.filter((row) => row.offsetParent !== null).length + " of " + rows.length + " shown"; };
find.addEventListener("input", () => { const text = find.value.toLowerCase(); rows.forEach((row) => { row.hidden = !row.textContent.toLowerCase().includes(text); }); count(); });
document.querySelectorAll("[name=only]").forEach((choice) => choice.addEventListener("change", count));
document.querySelector(".tools").hidden = false; count();
