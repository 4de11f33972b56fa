// Tables sort by the buttons in their header and are filtered as one types; a protein is chosen by its button; the focus
// moves to a new answer; letters are zoomed.
let answered = "";
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-sort], button[data-choose]");
  if (!button) return;
  if (button.dataset.choose !== undefined) {
    trigger("select", { protein_id: button.dataset.choose });
    return;
  }
  const column = Number(button.dataset.sort), header = button.closest("th");
  const up = header.getAttribute("aria-sort") !== "ascending", body = header.closest("table").tBodies[0];
  header.parentElement.querySelectorAll("th").forEach((other) => other.setAttribute("aria-sort", "none"));
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const said = (row) => row.cells[column].textContent;
  const rows = [...body.rows].sort((a, b) => said(a).localeCompare(said(b), undefined, { numeric: true }));
  body.append(...(up ? rows : rows.reverse()));
});
element.addEventListener("input", (event) => {
  if (event.target.matches(".zoom")) {
    element.style.setProperty("--zoom", event.target.value);
  } else if (event.target.matches(".filter")) {
    const wanted = event.target.value.toLowerCase(), rows = [...element.querySelectorAll("tbody tr")];
    rows.forEach((row) => { row.hidden = !row.textContent.toLowerCase().includes(wanted); });
    element.querySelector(".count").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  }
});
watch("value", () => {
  const title = element.querySelector("[data-run]");
  if (!title) return;
  if (title.dataset.run === answered) {  // the picture has come: the same answer, written anew
    if (document.activeElement === document.body) title.focus({ preventScroll: true });
    return;
  }
  answered = title.dataset.run;
  title.focus({ preventScroll: true });
  if (title.getBoundingClientRect().top > innerHeight / 2 || title.getBoundingClientRect().top < 0) {
    title.scrollIntoView({ block: "start" });
  }
});
