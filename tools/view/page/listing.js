// The list of questions: only the rows in view are in the document.

const ROW_HEIGHT = 58; // as in page.css
const AROUND = 6; // rows above and below those in view
const list = document.getElementById("list");
const rows = document.getElementById("rows");
const listing = { chosen: [], selected: -1, onSelect: () => {} };

function verdictMark(isRight, name) {
  if (isRight === null || isRight === undefined) return null;
  const mark = make("span", { className: isRight ? "mark right" : "mark wrong" });
  mark.append(make("span", { className: "name" }, name), isRight ? "✓" : "✗");
  mark.title = `${name}: ${isRight ? "right" : "wrong"}`;
  return mark;
}

function rowOf(place) {
  const { question, isRight } = listing.chosen[place];
  const { picks, solutions } = question;
  const row = make("div", { id: `row-${place}`, className: "row", role: "option" });
  row.style.top = `${place * ROW_HEIGHT}px`;
  row.setAttribute("aria-selected", String(place === listing.selected));
  row.setAttribute("aria-setsize", String(listing.chosen.length));
  row.setAttribute("aria-posinset", String(place + 1));
  const thumb = make("span", { className: "thumb" });
  if (question.pictures.length && question.pictures[0] >= 0) thumb.append(pictureElement(question.pictures[0], ""));
  const marks = make("span", { className: "marks" });
  const hasBoth = "model" in picks && "vote" in picks;
  const found = hasBoth
    ? [verdictMark(solutions[picks.model].is_right, "model"), verdictMark(solutions[picks.vote].is_right, "vote")]
    : [verdictMark(isRight, "model" in picks || !("vote" in picks) ? "" : "vote")];
  marks.append(...found.filter((mark) => mark !== null));
  const origin = make("span", { className: "origin" }, `${question.benchmark} · ${question.id}`);
  const text = question.text.replaceAll("<image>", " ▦ ").slice(0, 160);
  row.append(thumb, make("span", { className: "words" }, origin, make("span", { className: "snippet", dir: "auto" }, ...visible(text))), marks);
  row.addEventListener("click", () => select(place));
  return row;
}

function showRows() {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - AROUND);
  const last = Math.min(listing.chosen.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_HEIGHT) + AROUND);
  rows.replaceChildren(...Array.from({ length: Math.max(0, last - first) }, (_, index) => rowOf(first + index)));
}

/** Select a question of the list, bring its row into view and show it. */
function select(place, { reveal = true } = {}) {
  listing.selected = Math.min(Math.max(place, 0), listing.chosen.length - 1);
  const top = listing.selected * ROW_HEIGHT;
  if (reveal && top < list.scrollTop) list.scrollTop = top;
  if (reveal && top + ROW_HEIGHT > list.scrollTop + list.clientHeight) {
    list.scrollTop = top + ROW_HEIGHT - list.clientHeight;
  }
  if (listing.selected >= 0) list.setAttribute("aria-activedescendant", `row-${listing.selected}`);
  else list.removeAttribute("aria-activedescendant");
  showRows();
  listing.onSelect(listing.chosen[listing.selected] ?? null);
}

/** Show other questions; the selected one stays selected if it is among them. */
function showQuestions(chosen) {
  const before = listing.chosen[listing.selected];
  listing.chosen = chosen;
  rows.style.height = `${chosen.length * ROW_HEIGHT}px`;
  select(Math.max(0, chosen.indexOf(before)));
}

let isWaiting = false;
function showRowsSoon() {
  if (isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(() => {
    isWaiting = false;
    showRows();
  });
}
list.addEventListener("scroll", showRowsSoon);
window.addEventListener("resize", showRowsSoon);
