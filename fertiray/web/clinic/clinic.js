// The clinic page: sign in, send crops, watch jobs, look at patients.

import { ask, asJson, byId, complain, make, say, signIn, signOut, token } from "/static/base.js";
import { showChosen, watchDrops } from "/static/send.js";
import { zoom } from "/static/zoom.js";

const SECTIONS = ["sign-in", "home", "job", "patient"];
const DONE = ["done", "failed", "cancelled"];
let timer = 0;
let visit = 0; // grows with every change of page, so that a late answer finds it has been left

function show(name) {
  for (const section of SECTIONS) byId(section).hidden = section !== name;
  byId("nav").hidden = byId("sign-out").hidden = name === "sign-in";
}

async function route() {
  clearTimeout(timer);
  visit += 1;
  complain("");
  if (!token()) {
    show("sign-in");
    byId("token").focus();
    return;
  }
  const [, , job, , number] = location.hash.split("/");
  try {
    if (job && number !== undefined) await patientPage(job, number);
    else if (job) await jobPage(job, visit);
    else await homePage(visit);
  } catch (error) {
    complain(error.message);
  }
}

async function homePage(own) {
  document.title = "Jobs · FertiRay";
  show("home");
  await refreshJobs(own);
}

async function refreshJobs(own) {
  const { jobs } = await asJson("/v1/jobs");
  if (own !== visit) return;
  byId("jobs").hidden = !jobs.length;
  byId("no-jobs").hidden = jobs.length > 0;
  byId("jobs").tBodies[0].replaceChildren(...jobs.map(jobRow));
  clearTimeout(timer);
  if (jobs.some((job) => !DONE.includes(job.state))) again(() => refreshJobs(own));
}

function again(look) {
  timer = setTimeout(() => look().catch((error) => complain(error.message)), 1000);
}

function jobRow(job) {
  const name = `Progress of ${job.label}`;
  const filled = job.total ? { max: job.total, value: job.done } : {};
  const bar = make("progress", { ...filled, "aria-label": name });
  const far = DONE.includes(job.state) ? `${number(job.done)} crops` : bar;
  return make(
    "tr",
    {},
    make("th", { scope: "row" }, make("a", { href: `#/jobs/${job.id}` }, job.label)),
    make("td", {}, new Date(job.created).toLocaleString()),
    make("td", { class: `state ${job.state}` }, stateText(job)),
    make("td", {}, far),
    make("td", {}, job.message),
  );
}

const number = (value) => (value ?? 0).toLocaleString("en");

function stateText(job) {
  if (job.cancelling) return "being cancelled";
  return job.state === "running" ? job.stage || "running" : job.state;
}

async function jobPage(id, own) {
  show("job");
  for (const part of ["job-progress", "job-message", "job-cancel", "job-delete"]) byId(part).hidden = true;
  for (const button of document.querySelectorAll("#job [data-format]")) button.hidden = true;
  byId("cohort").replaceChildren();
  byId("job-cancel").onclick = () => act(`/v1/jobs/${id}/cancel`, "POST", () => look());
  byId("job-delete").onclick = () => {
    const sure = "Delete this job with all images and results? This cannot be undone.";
    if (confirm(sure)) act(`/v1/jobs/${id}`, "DELETE", () => (location.hash = "#/"));
  };
  for (const button of document.querySelectorAll("#job [data-format]")) {
    button.onclick = () => download(id, button.dataset).catch((error) => complain(error.message));
  }
  let before = "";
  const look = async () => {
    const job = await asJson(`/v1/jobs/${id}`);
    if (own !== visit) return;
    showJob(job);
    if (stateText(job) !== before) say(`${job.label}: ${stateText(job)}`);
    before = stateText(job);
    if (!DONE.includes(job.state)) again(look);
    else if (job.state === "done") {
      byId("cohort").innerHTML = await (await ask(`/v1/jobs/${id}/view`)).text();
    }
  };
  await look();
}

function showJob(job) {
  const ended = DONE.includes(job.state);
  document.title = `${job.label} · FertiRay`;
  byId("job-title").textContent = job.label;
  const counts = job.counts.rows_in
    ? `: ${number(job.counts.scored)} heads scored, ${number(job.counts.rejected)} rejected, ${number(job.counts.patients)} patients`
    : "";
  byId("job-state").textContent = `${stateText(job)}${counts}`;
  byId("job-state").className = `state ${job.state}`;
  byId("job-expires").textContent = job.expires ? `Deleted on ${new Date(job.expires).toLocaleString()}` : "";
  byId("job-expires").hidden = !job.expires;
  byId("job-progress").hidden = ended;
  if (job.total) {
    byId("job-bar").max = job.total;
    byId("job-bar").value = job.done;
    byId("job-text").textContent = `${number(job.done)} of ${number(job.total)} crops`;
  } else {
    byId("job-bar").removeAttribute("value");
    byId("job-text").textContent = job.stage ? "" : "waiting for its turn";
  }
  byId("job-message").textContent = job.message;
  byId("job-message").hidden = !job.message;
  byId("job-cancel").hidden = ended;
  byId("job-delete").hidden = !ended;
  for (const button of document.querySelectorAll("#job [data-format]")) button.hidden = job.state !== "done";
}

async function act(path, method, then) {
  try {
    await ask(path, { method });
    await then();
  } catch (error) {
    complain(error.message);
  }
}

async function download(id, { format, table }) {
  const query = new URLSearchParams({ format, table: table ?? "patients" });
  const answer = await ask(`/v1/jobs/${id}/result?${query}`);
  const name = /filename="(.+)"/.exec(answer.headers.get("content-disposition"))[1];
  const address = URL.createObjectURL(await answer.blob());
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
  say(`${name} is being saved`);
}

async function patientPage(job, number) {
  const text = await (await ask(`/v1/jobs/${job}/patients/${Number(number)}/view`)).text();
  show("patient");
  byId("patient").innerHTML = text;
  document.title = `${byId("patient").querySelector("h1").textContent} · FertiRay`;
  for (const crop of byId("patient").querySelectorAll("button.crop")) {
    crop.addEventListener("click", () => zoom(job, crop.dataset));
  }
  byId("main").focus({ preventScroll: true });
  scrollTo(0, 0);
}

byId("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  signIn(byId("token").value.trim());
  byId("token").value = "";
  await showChosen(null);
  await route();
});
byId("sign-out").addEventListener("click", () => {
  location.hash = "#/";
  signOut();
});
addEventListener("signed-out", () => {
  clearTimeout(timer);
  visit += 1;
  show("sign-in");
  for (const id of ["cohort", "patient"]) byId(id).replaceChildren();
  byId("token").focus();
});
addEventListener("jobs-changed", route);
addEventListener("hashchange", route);
watchDrops();
route();
