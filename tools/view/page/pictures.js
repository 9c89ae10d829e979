// Pictures: files beside the page, or blocks in it that are read when they are first shown.

const KNOWN_KINDS = new Set(["png", "jpeg", "gif", "webp", "bmp"]);

/** Address of a picture by its number. */
function pictureAddress(number) {
  if (contents.pictures) return contents.pictures[number].split("/").map(encodeURIComponent).join("/");
  const [kind, data] = document.getElementById(`picture-${number}`).textContent.split(" ");
  return KNOWN_KINDS.has(kind) ? `data:image/${kind};base64,${data}` : "";
}

function pictureElement(number, alt) {
  if (number < 0) return make("span", { className: "no-picture", title: alt }, "picture not found");
  const image = make("img", { alt, loading: "lazy", decoding: "async" });
  image.src = pictureAddress(number);
  return image;
}

function enlarge(number, alt) {
  document.getElementById("zoomed").replaceChildren(pictureElement(number, alt));
  document.getElementById("zoom").showModal();
}

/** The pictures of a question, each a button that enlarges it. */
function pictureButtons(question) {
  return question.pictures.map((number, place) => {
    const alt = `Picture ${place + 1} of ${question.pictures.length}`;
    if (number < 0) return pictureElement(number, alt);
    const button = make("button", { type: "button", className: "picture", title: `${alt}: enlarge (z)` });
    button.append(pictureElement(number, alt));
    button.addEventListener("click", () => enlarge(number, alt));
    return button;
  });
}
