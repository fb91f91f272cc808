"use strict";
// Times in the viewer's zone; the exact one stays in the title.
// Today's are told by the clock, this year's without the year.
const zoned = (options) => new Intl.DateTimeFormat(document.documentElement.lang, options);
const hour = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }, day = { month: "short", day: "numeric" };
const ofToday = zoned(hour), ofYear = zoned({ ...day, ...hour }), ofOther = zoned({ year: "numeric", ...day, ...hour });
const exactly = zoned({ dateStyle: "full", timeStyle: "long" }), ofDay = zoned(day);
function local(at) {
  const now = new Date();
  if (at.toDateString() === now.toDateString()) return ofToday.format(at);
  return (at.getFullYear() === now.getFullYear() ? ofYear : ofOther).format(at);
}
function localTimes(place) {
  for (const time of place.querySelectorAll("time[datetime]:not([data-left])")) {
    const at = new Date(time.dateTime);
    if (isNaN(at)) continue;
    time.textContent = local(at);
    time.title = `${exactly.format(at)} (${time.dateTime})`;
  }
  for (const mark of place.querySelectorAll("text[data-at]")) {
    const at = new Date(mark.dataset.at);
    mark.textContent = (mark.textContent.includes(":") ? ofToday : ofDay).format(at);
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
