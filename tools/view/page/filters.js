// The fields above the list, and which questions they leave.

const DISAGREEMENTS = {
  "other answer": "model and vote pick other answers",
  "only vote right": "model wrong, vote right",
  "only model right": "model right, vote wrong",
  "right one missed": "model wrong, a right one was there",
  step: "a step judged other than its label or mc",
};
const ORDERS = {
  file: "as in the files",
  low: "lowest best score first",
  spread: "widest spread of scores first",
};
const FIELDS = Object.fromEntries(
  ["search", "benchmark", "source", "verdict", "disagreement", "first-wrong", "order"].map((id) => [
    id,
    document.getElementById(id),
  ]),
);

function countsOf(valuesOf) {
  const counts = new Map();
  for (const entry of QUESTIONS) for (const value of valuesOf(entry)) counts.set(value, (counts.get(value) ?? 0) + 1);
  return counts;
}

/** Fill a field with the values that occur and their numbers of questions; alone, a value is no choice. */
function offer(id, counts, named = (value) => value) {
  const choices = [...counts].map(([value, count]) =>
    make("option", { value }, `${named(value)} (${count.toLocaleString("en")})`),
  );
  FIELDS[id].replaceChildren(make("option", { value: "" }, "all"), ...choices);
  FIELDS[id].disabled = id === "disagreement" ? choices.length === 0 : choices.length < 2;
}

const VERDICTS = { right: "right", wrong: "wrong", mixed: "some solutions right", unknown: "not known" };

/** The verdict on the solution that is picked; where nothing picks one, on all solutions together. */
function verdictOf(entry) {
  if (entry.isRight !== null) return entry.isRight ? "right" : "wrong";
  return entry.picked === null && entry.hasRight ? "mixed" : "unknown";
}

function offerChoices() {
  offer("benchmark", countsOf((entry) => [entry.question.benchmark]));
  offer("source", countsOf((entry) => [entry.question.source]));
  offer("verdict", countsOf((entry) => [verdictOf(entry)]), (value) => VERDICTS[value]);
  const kinds = countsOf((entry) => entry.kinds);
  offer("disagreement", new Map(Object.keys(DISAGREEMENTS).filter((k) => kinds.has(k)).map((k) => [k, kinds.get(k)])), (k) => DISAGREEMENTS[k]);
  const places = [...countsOf((entry) => entry.firstWrongs)].sort(([a], [b]) => a - b);
  offer("first-wrong", new Map(places), (place) => (place < 0 ? "none" : `step ${place + 1}`));
  FIELDS.order.replaceChildren(...Object.entries(ORDERS).map(([value, text]) => make("option", { value }, text)));
}

/** The questions that all fields leave, in the chosen order. */
function chosenQuestions() {
  const terms = FIELDS.search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const { benchmark, source, verdict, disagreement } = Object.fromEntries(
    Object.entries(FIELDS).map(([id, field]) => [id, field.value]),
  );
  const wrong = FIELDS["first-wrong"].value;
  const chosen = QUESTIONS.filter(
    (entry) =>
      (!benchmark || entry.question.benchmark === benchmark) &&
      (!source || entry.question.source === source) &&
      (!verdict || verdictOf(entry) === verdict) &&
      (!disagreement || entry.kinds.has(disagreement)) &&
      (wrong === "" || entry.firstWrongs.has(Number(wrong))) &&
      terms.every((term) => haystackOf(entry).includes(term)),
  );
  if (FIELDS.order.value === "low") chosen.sort((a, b) => (a.best ?? 2) - (b.best ?? 2) || a.place - b.place);
  if (FIELDS.order.value === "spread") chosen.sort((a, b) => b.spread - a.spread || a.place - b.place);
  return chosen;
}

function resetFilters() {
  FIELDS.search.value = "";
  for (const field of Object.values(FIELDS)) if (field.tagName === "SELECT") field.selectedIndex = 0;
}

/** The next kind of disagreement, after the last one none. */
function nextDisagreement() {
  const field = FIELDS.disagreement;
  field.selectedIndex = (field.selectedIndex + 1) % field.options.length;
}

/** A line about the questions that are shown. */
function tallyOf(chosen) {
  const parts = [`${chosen.length.toLocaleString("en")} of ${QUESTIONS.length.toLocaleString("en")} questions`];
  const share = (name, entries, isRight) => {
    const known = entries.map(isRight).filter((value) => value !== null);
    if (known.length) parts.push(`${name} ${percent(known.filter(Boolean).length, known.length)}`);
  };
  const answered = chosen.filter(({ question }) => "vote" in question.picks);
  const pickOf = (method) => ({ question }) => question.solutions[question.picks[method]]?.is_right ?? null;
  share("model right", chosen, pickOf("model"));
  share("vote right", answered, pickOf("vote"));
  share("any right", answered, (entry) => entry.hasRight);
  const steps = chosen.flatMap(({ question }) => question.solutions).filter((s) => s.scores && (s.labels || s.mc));
  const judged = steps.flatMap((s) => s.steps.map((_, step) => (truthOf(s, step) === null ? null : !isJudgedOtherwise(s, step))));
  share("steps judged as labelled", judged, (value) => value);
  return parts.join(" · ");
}
