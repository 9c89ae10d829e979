// The data of the page, and what filters and views need to know of each question.

const contents = JSON.parse(document.getElementById("contents").textContent);
const [LOW, HIGH] = contents.range;

/** The class of the colour of a score: s0 (lowest) to s10 (highest). */
function colourOf(score, low = LOW, high = HIGH) {
  const share = Math.min(1, Math.max(0, (score - low) / (high - low)));
  return `s${Math.round(10 * share)}`;
}

function meanMc(solution) {
  const known = (solution.mc ?? []).filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

/** What is known to be true of a step: true, false, or null where nobody says or a label is neutral. */
function truthOf(solution, step) {
  if (solution.labels) return solution.labels[step] === 0 ? null : solution.labels[step] > 0;
  if (solution.mc) return solution.mc[step] === null ? null : solution.mc[step] > 0;
  return null;
}

function judgedCorrect(solution, step) {
  return solution.scores ? solution.scores[step] >= contents.threshold : null;
}

/** Index of the first wrong step by the labels, else by Monte Carlo scores, else by the model; -1 for none. */
function firstWrong(solution) {
  const says = solution.labels || solution.mc ? truthOf : judgedCorrect;
  return solution.steps.findIndex((_, step) => says(solution, step) === false);
}

function isJudgedOtherwise(solution, step) {
  const truth = truthOf(solution, step);
  const judged = judgedCorrect(solution, step);
  return truth !== null && judged !== null && truth !== judged;
}

/** Indices of a question's solutions, best first: by score, else by mean Monte Carlo score, else as in the file. */
function bestFirst(question) {
  const worth = question.solutions.map((solution) => solution.score ?? meanMc(solution) ?? 0);
  return worth.map((_, place) => place).sort((a, b) => worth[b] - worth[a] || a - b);
}

function learn(question, place) {
  const { solutions, picks } = question;
  const order = bestFirst(question);
  const picked = picks.model ?? picks.vote ?? (solutions.length === 1 ? 0 : null);
  const model = solutions[picks.model] ?? null;
  const vote = solutions[picks.vote] ?? null;
  const kinds = new Set();
  if (model && vote && model.answer_class !== vote.answer_class) kinds.add("other answer");
  if (model && vote && model.is_right === false && vote.is_right === true) kinds.add("only vote right");
  if (model && vote && model.is_right === true && vote.is_right === false) kinds.add("only model right");
  const verdicts = (picked === null ? solutions : [solutions[picked]]).map((solution) => solution.is_right ?? null);
  const hasRight = solutions.some((solution) => solution.is_right === true);
  if (model && model.is_right === false && hasRight) kinds.add("right one missed");
  if (solutions.some((s) => s.steps.some((_, step) => isJudgedOtherwise(s, step)))) kinds.add("step");
  const asked = picked === null ? solutions : [solutions[picked]];
  const scores = solutions.map((solution) => solution.score ?? meanMc(solution)).filter((score) => score !== null);
  return {
    place,
    question,
    order,
    picked,
    kinds,
    hasRight,
    isRight: verdicts.every((verdict) => verdict === verdicts[0]) ? verdicts[0] : null,
    firstWrongs: new Set(asked.map(firstWrong)),
    best: scores.length ? Math.max(...scores) : null,
    spread: scores.length > 1 ? Math.max(...scores) - Math.min(...scores) : 0,
    haystack: null,
  };
}

const QUESTIONS = contents.questions.map(learn);

/** All texts of a question in lower case, made when they are first searched. */
function haystackOf(entry) {
  if (entry.haystack === null) {
    const { question } = entry;
    const answers = question.solutions.flatMap((solution) => [solution.answer ?? "", ...solution.steps]);
    const parts = [question.benchmark, question.source, question.id, question.text, ...question.gold, ...answers];
    entry.haystack = parts.join("\n").toLowerCase();
  }
  return entry.haystack;
}
