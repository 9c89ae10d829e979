// Texts of models and people become text nodes, never markup.

const LONGEST_TEXT = 4000;
// Characters that are not seen, or that turn the direction of what follows: their codes are shown in their place.
const UNSEEN = /([\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff])\1*/g;

/** An element with properties, attributes ("aria-..." and the like) and children; strings become text nodes. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element && !name.startsWith("aria")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Text nodes of a text, with the codes of characters that would not be seen. */
function visible(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(UNSEEN)) {
    nodes.push(text.slice(end, match.index));
    const code = "U+" + match[1].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    const times = match[0].length > 1 ? " × " + match[0].length.toLocaleString("en") : "";
    nodes.push(make("span", { className: "unseen", title: "a character that is not seen" }, code + times));
    end = match.index + match[0].length;
  }
  nodes.push(text.slice(end));
  return nodes;
}

/** A block of a text that is cut where it is very long, with a button that shows all of it. */
function block(className, text, parts = visible) {
  const element = make("div", { className, dir: "auto" });
  if (text.length <= LONGEST_TEXT) {
    element.append(...parts(text));
    return element;
  }
  const button = make("button", { type: "button", className: "more" });
  button.textContent = `Show all ${text.length.toLocaleString("en")} characters`;
  button.addEventListener("click", () => element.replaceChildren(...parts(text)));
  element.append(...parts(text.slice(0, LONGEST_TEXT)), "… ", button);
  return element;
}

/** A question's text with a mark where each picture stands. */
function withPictureMarks(text) {
  let number = 0;
  return text.split("<image>").flatMap((piece, place) => {
    if (place === 0) return visible(piece);
    number += 1;
    return [make("span", { className: "picture-mark" }, `picture ${number}`), ...visible(piece)];
  });
}

function fixed(value, digits = 2) {
  return value.toFixed(digits).replace("-", "−");
}

function percent(part, whole) {
  return `${((100 * part) / whole).toFixed(1)} %`;
}
