"use strict";
const form = document.querySelector(".filter");
const verdict = document.getElementById("by-verdict");
const patient = document.getElementById("by-name");
function apply() {
  const wanted = verdict.value, part = patient.value.trim().toLowerCase();
  for (const element of document.querySelectorAll("[data-verdict]")) {
    const fits = !wanted || element.dataset.verdict.split("|").includes(wanted);
    element.hidden = !(fits && element.dataset.name.includes(part));
  }
}
form.hidden = false;
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", apply);
