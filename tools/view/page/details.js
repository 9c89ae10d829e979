// The selected question: pictures, text, facts, and its solutions with their steps.

const LABELS = { 1: ["✓", "correct", "people say: correct"], 0: ["·", "neutral", "people say: neutral"], "-1": ["✗", "wrong", "people say: wrong"] };
const article = document.getElementById("question");
let shown = null;

function fact(name, ...values) {
  return make("div", {}, make("dt", {}, name), make("dd", { dir: "auto" }, ...values));
}

function pickFact(name, question, place) {
  if (place === undefined) return null;
  const { answer, is_right: isRight, answer_class: group } = question.solutions[place];
  const votes = question.solutions.filter((solution) => solution.answer_class === group && group >= 0).length;
  const values = [...visible(answer ?? "no answer"), " ", verdictMark(isRight, "")];
  if (name === "Vote") values.push(make("span", { className: "quiet" }, ` ${votes} of ${question.solutions.length}`));
  return fact(name, ...values.filter((value) => value !== null));
}

function factsOf(entry) {
  const { question } = entry;
  const { solutions, picks } = question;
  const facts = make("dl", { className: "facts" });
  if (question.gold.length) facts.append(fact("Gold", ...visible(question.gold.join("  or  "))));
  if ("vote" in picks) {
    const right = solutions.filter((solution) => solution.is_right).length;
    const found = [pickFact("Model", question, picks.model), pickFact("Vote", question, picks.vote)];
    facts.append(...found.filter((each) => each !== null), fact("Right", `${right} of ${solutions.length}`));
  }
  return facts;
}

/** Small cells, one for each step, in the colours of their scores. */
function stripOf(solution) {
  const values = solution.scores ?? solution.mc ?? [];
  const range = solution.scores ? [LOW, HIGH] : [0, 1];
  const strip = make("span", { className: "strip", "aria-hidden": "true" });
  for (const value of values) strip.append(make("i", { className: value === null ? "unknown" : colourOf(value, ...range) }));
  return strip;
}

function mcCell(solution, step) {
  const value = solution.mc[step];
  const [correct, total] = solution.counts?.[step] ?? [null, null];
  if (value === null) return make("span", { className: "mc", title: "not sampled" }, "–");
  const title = total === null ? `mc ${fixed(value, 3)}` : `mc ${fixed(value, 3)}: ${correct} of ${total} continuations are right`;
  const text = total === null ? fixed(value) : `${correct}/${total}`;
  return make("span", { className: `mc ${colourOf(value, 0, 1)}`, title }, text);
}

function stepItem(solution, step) {
  const item = make("li", { className: isJudgedOtherwise(solution, step) ? "step otherwise" : "step" });
  item.append(make("span", { className: "number" }, String(step + 1)));
  if (solution.scores) {
    const score = solution.scores[step];
    item.append(make("span", { className: `score ${colourOf(score)}`, title: `score ${score}` }, fixed(score)));
  }
  if (solution.mc) item.append(mcCell(solution, step));
  if (solution.labels) {
    const [sign, name, title] = LABELS[solution.labels[step]];
    item.append(make("span", { className: `label ${name}`, title, "aria-label": title, role: "img" }, sign));
  }
  item.append(block("text", solution.steps[step]));
  return item;
}

function stepsOf(solution) {
  const columns = [solution.scores && "score", solution.mc && "mc", solution.labels && "label"].filter(Boolean);
  const steps = make("ol", { className: `steps columns-${columns.length}` });
  const head = make("li", { className: "step head", "aria-hidden": "true" }, make("span", {}, "#"));
  head.append(...columns.map((name) => make("span", {}, name === "label" ? "human" : name)), make("span", {}, ""));
  steps.append(head, ...solution.steps.map((_, step) => stepItem(solution, step)));
  return steps;
}

function verdictWords(solution) {
  if (solution.is_right === undefined) return null;
  const wrong = firstWrong(solution);
  const words = solution.labels ? (wrong < 0 ? "no wrong step" : `wrong from step ${wrong + 1}`) : solution.is_right ? "right" : "wrong";
  return make("span", { className: solution.is_right ? "verdict right" : "verdict wrong" }, `${solution.is_right ? "✓" : "✗"} ${words}`);
}

function solutionSection(entry, place, rank) {
  const { question } = entry;
  const solution = question.solutions[place];
  const body = make("div", { id: `solution-${rank}`, className: "body", hidden: true });
  const button = make("button", { type: "button", className: "headline", "aria-expanded": "false", "aria-controls": body.id });
  const value = solution.score ?? meanMc(solution);
  const title = solution.score === undefined ? "mean mc of the steps" : "response score";
  button.append(make("span", { className: "rank", title: `${question.solutions.length > 9 && rank > 9 ? "" : "key " + rank}` }, String(rank)));
  if (value !== null) button.append(make("span", { className: "worth", title }, fixed(value, 3)));
  button.append(stripOf(solution));
  if (solution.answer_class !== undefined) {
    button.append(make("span", { className: "answer", dir: "auto", title: "the answer that was read" }, ...visible((solution.answer ?? "no answer").slice(0, 200))));
  }
  const badges = make("span", { className: "badges" });
  if (question.picks.model === place && question.solutions.length > 1) badges.append(make("span", { className: "badge" }, "model’s pick"));
  if (question.picks.vote === place) badges.append(make("span", { className: "badge" }, "vote"));
  badges.append(make("span", { className: "quiet" }, "labels" in solution || "mc" in solution ? solution.name : `#${solution.name}`));
  const words = verdictWords(solution);
  button.append(...(words ? [words] : []), badges);
  // The steps are made when they are first looked at.
  const toggle = (isOpen = body.hidden) => {
    if (isOpen && !body.firstChild) body.append(stepsOf(solution));
    body.hidden = !isOpen;
    button.setAttribute("aria-expanded", String(isOpen));
  };
  button.addEventListener("click", () => toggle());
  const section = make("section", { className: "solution" }, make("h3", {}, button), body);
  return { section, toggle, isOpen: () => !body.hidden };
}

function legend(question) {
  const scale = make("span", { className: "scale", "aria-hidden": "true" });
  for (let shade = 0; shade <= 10; shade += 1) scale.append(make("i", { className: `s${shade}` }));
  const isScored = question.solutions.some((solution) => solution.scores);
  const [name, low, high] = isScored ? ["score", LOW, HIGH] : ["mc", 0, 1];
  const rule = isScored ? `; a step counts as correct from ${contents.threshold}` : "";
  return make("p", { className: "legend" }, `${name} ${low} `, scale, ` ${high}${rule}`);
}

/** Show a question with its best solution open, and those that it disagrees with. */
function showQuestion(entry) {
  shown = null;
  if (entry === null) {
    article.replaceChildren(make("p", { className: "notice" }, "No question is left by the filters. ", make("kbd", {}, "r"), " resets them."));
    return;
  }
  const { question } = entry;
  const head = make("header", {});
  head.append(make("p", { className: "origin" }, [question.benchmark, question.id, question.source].filter(Boolean).join(" · ")));
  const asked = make("div", { className: "asked" });
  if (question.pictures.length) asked.append(make("div", { className: "pictures" }, ...pictureButtons(question)));
  asked.append(block("text", question.text || "The question is not known.", withPictureMarks));
  head.append(asked, factsOf(entry));
  const solutions = entry.order.map((place, index) => solutionSection(entry, place, index + 1));
  article.replaceChildren(head, legend(question), ...solutions.map((each) => each.section));
  article.scrollTop = 0;
  entry.order.forEach((place, index) => {
    if (index === 0 || place === question.picks.vote) solutions[index].toggle(true);
  });
  shown = { entry, solutions };
}
