// What keys do. Fields and dialogs keep theirs.

const dialogs = [...document.querySelectorAll("dialog")];

function openOrCloseAll() {
  const isOpen = shown.solutions.some((each) => !each.isOpen());
  for (const each of shown.solutions) each.toggle(isOpen);
}

function toggleTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
}

const KEYS = {
  j: () => select(listing.selected + 1),
  k: () => select(listing.selected - 1),
  g: () => select(0),
  G: () => select(listing.chosen.length - 1),
  e: () => shown && openOrCloseAll(),
  d: () => {
    nextDisagreement();
    applyFilters();
  },
  z: () => shown?.entry.question.pictures[0] >= 0 && enlarge(shown.entry.question.pictures[0], "Picture 1"),
  "/": () => {
    showFilters(true);
    FIELDS.search.select();
  },
  r: () => {
    resetFilters();
    applyFilters();
  },
  t: toggleTheme,
  "?": () => document.getElementById("keys").showModal(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || dialogs.some((dialog) => dialog.open)) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") list.focus();
    return;
  }
  let act = Object.hasOwn(KEYS, event.key) ? KEYS[event.key] : null;
  if (event.target === list && event.key === "ArrowDown") act = KEYS.j;
  if (event.target === list && event.key === "ArrowUp") act = KEYS.k;
  if (event.target === list && event.key === "Home") act = KEYS.g;
  if (event.target === list && event.key === "End") act = KEYS.G;
  if (/^[1-9]$/.test(event.key)) act = () => shown?.solutions[Number(event.key) - 1]?.toggle();
  if (act === null) return;
  event.preventDefault();
  act();
}
document.addEventListener("keydown", onKey);
