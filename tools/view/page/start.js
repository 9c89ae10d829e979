// Put the parts together.

const toggleFilters = document.getElementById("toggle-filters");

/** In a narrow window the filters are folded away until they are asked for. */
function showFilters(isShown) {
  document.body.classList.toggle("with-filters", isShown);
  toggleFilters.setAttribute("aria-expanded", String(isShown));
}

function applyFilters() {
  const chosen = chosenQuestions();
  document.getElementById("tally").textContent = tallyOf(chosen);
  showQuestions(chosen);
}

let typing = 0;
FIELDS.search.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(applyFilters, 80);
});
for (const field of Object.values(FIELDS)) if (field.tagName === "SELECT") field.addEventListener("change", applyFilters);
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
document.getElementById("reset").addEventListener("click", KEYS.r);
document.getElementById("theme").addEventListener("click", toggleTheme);
document.getElementById("show-keys").addEventListener("click", KEYS["?"]);
toggleFilters.addEventListener("click", () => showFilters(!document.body.classList.contains("with-filters")));
for (const dialog of dialogs) dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

// The number of the question is in the address, so that a link can point to it.
listing.onSelect = (entry) => {
  showQuestion(entry);
  if (entry !== null) history.replaceState(null, "", `#${entry.place + 1}`);
};
offerChoices();
const asked = Number(location.hash.slice(1)) - 1;
document.getElementById("tally").textContent = tallyOf(QUESTIONS);
listing.selected = QUESTIONS[asked] ? asked : 0;
listing.chosen = QUESTIONS;
showQuestions(QUESTIONS);
