// Parts that the server is asked for again while a page is open: an element with data-again says where its next state is.
import { replaceParts } from "./parts.js";

export function lookAgain(everyMs, most) {
  let looks = 0;
  setInterval(async () => {
    const url = document.querySelector("[data-again]")?.dataset.again;
    if (!url || document.hidden || looks >= most) return;
    looks += 1;
    const answer = await fetch(url, { headers: { "x-part": "1" } }).catch(() => null);
    if (answer?.ok && !answer.redirected) replaceParts(await answer.text());
  }, everyMs);
}
