"use strict";
// Times in the viewer's zone; the exact one stays in the title.
function localTimes(place) {
  const format = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });
  for (const time of place.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (!isNaN(at)) time.textContent = format.format(at);
  }
}

// A part with data-live="5" is fetched anew every 5 s, with the page that it belongs to, while somebody looks.
function keepAlive(part) {
  const seconds = Number(part.dataset.live);
  setTimeout(async () => {
    let here = document.getElementById(part.id);
    if (!document.hidden && !(here && here.contains(document.activeElement) && document.activeElement.matches("input, select, textarea"))) {
      try {
        const answer = await fetch(location.href, { headers: { accept: "text/html" }, redirect: "error" });
        if (answer.ok) {
          const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(part.id);
          if (fresh && here) { localTimes(fresh); here.replaceWith(fresh); here = fresh; }
        }
      } catch (error) { /* the next round may do better */ }
    }
    if (here) keepAlive(here);
  }, seconds * 1000);
}

// A button with data-copy="ID" copies the text of that element.
function copyButtons(place) {
  for (const button of place.querySelectorAll("button[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = button.dataset.done;
    });
  }
}

localTimes(document);
copyButtons(document);
for (const part of document.querySelectorAll("[data-live][id]")) keepAlive(part);
