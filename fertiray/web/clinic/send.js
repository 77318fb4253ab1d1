// A dropped or chosen folder or archive: show what is in it, then send it as one job.

import { counts, dropped, listing, patients, tar } from "/static/archive.js";
import { ask, asJson, byId, complain, make, say } from "/static/base.js";

const KINDS = ["zip", "tar", "gz", "tgz", "parquet"];
const SHOWN = 12;
const PART = 8 * 2 ** 20;
const TRIES = 5;
let chosen = null; // {name, files} of a folder, or {name, archive, names}
let stopping = null;

export function watchDrops() {
  const drop = byId("drop");
  for (const kind of ["dragenter", "dragover"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    say("Looking at what was dropped");
    await take(await dropped(event.dataTransfer.items));
  });
  byId("folder").addEventListener("change", async (event) => {
    const files = [...event.target.files];
    const root = files[0]?.webkitRelativePath.split("/")[0] ?? null;
    const inside = files.map((file) => ({ path: file.webkitRelativePath.split("/").slice(1).join("/"), file }));
    event.target.value = "";
    await take({ name: root, files: inside });
  });
  byId("archive").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) await take({ name: null, files: [{ path: file.name, file }] });
  });
  byId("layout").addEventListener("change", preview);
  byId("forget").addEventListener("click", () => showChosen(null));
  byId("send").addEventListener("submit", (event) => {
    event.preventDefault();
    send(packed());
  });
  byId("upload-stop").addEventListener("click", () => stopping.abort());
}

async function take({ name, files }) {
  complain("");
  const first = files.length === 1 ? files[0].file : null;
  const kind = first?.name.toLowerCase().split(".").at(-1);
  if (first && KINDS.includes(kind) && !name) {
    const names = kind === "parquet" ? null : await listing(first);
    await showChosen({ name: first.name, archive: first, kind, names: names?.filter(counts) ?? null });
    return;
  }
  const images = files.filter(({ path }) => counts(path));
  if (!images.length) complain("There are no images in it. Drop a folder patient / slide / image.");
  await showChosen(images.length ? { name: name ?? "cohort", files: images } : null);
}

export async function showChosen(found) {
  chosen = found;
  byId("send").hidden = !found;
  byId("drop").hidden = Boolean(found);
  byId("uploading").hidden = true;
  if (!found) return;
  byId("chosen").textContent = found.name;
  byId("label").value = found.name.replace(/\.(zip|tar|tgz|tar\.gz|gz|parquet)$/i, "").slice(0, 100);
  layouts();
  preview();
  await models();
  byId("start").focus();
}

const paths = () => (chosen.files ? chosen.files.map((entry) => entry.path) : chosen.names);

// Which folders are the patients: asked only where there is more than one answer.
function layouts() {
  const all = paths();
  const options = [];
  if (chosen.files) {
    options.push(["0", `the folders in “${chosen.name}”`], ["all", `“${chosen.name}”: its folders are slides of one patient`]);
    byId("layout").replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
    if (all.some((path) => !path.includes("/"))) byId("layout").value = "all";
  } else {
    const tops = new Set((all ?? []).map((path) => path.split("/")[0]));
    const deep = (all ?? []).every((path) => path.split("/").length > 2);
    options.push(["0", "the folders at its top"]);
    if (!all || (tops.size === 1 && deep)) options.push(["1", "the folders inside its one folder"]);
    byId("layout").replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
    if (all && tops.size === 1 && all.every((path) => path.split("/").length > 3)) byId("layout").value = "1";
  }
  byId("layout-row").hidden = options.length < 2 || chosen.kind === "parquet";
}

function arranged(path) {
  if (byId("layout").value === "all") return `${chosen.name}/${path}`;
  return byId("layout").value === "1" ? path.split("/").slice(1).join("/") : path;
}

function preview() {
  const all = paths();
  if (!all) {
    byId("preview").replaceChildren(make("p", { class: "fine" }, "What is inside shows when it has been unpacked."));
    return;
  }
  const found = patients(all.map(arranged), byId("label").value);
  const rows = [...found].slice(0, SHOWN).map(([name, count]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "n" }, count.toLocaleString("en"))));
  const head = make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Patient"), make("th", { scope: "col", class: "n" }, "Images")));
  const total = `${found.size} patient${found.size === 1 ? "" : "s"}, ${all.length.toLocaleString("en")} images`;
  const table = make("table", {}, make("caption", {}, total), head, make("tbody", {}, ...rows));
  const more = found.size > SHOWN ? [make("p", { class: "fine" }, `and ${found.size - SHOWN} more`)] : [];
  byId("preview").replaceChildren(table, ...more);
}

async function models() {
  try {
    const found = (await asJson("/v1/models")).models.filter((model) => model.jobs);
    const boxes = found.map((model) => {
      const box = make("input", { type: "checkbox", value: model.id });
      box.checked = true;
      return make("label", {}, box, ` ${model.name}: ${model.task}, counts “${model.positive}”`);
    });
    byId("models").replaceChildren(byId("models").querySelector("legend"), ...boxes);
  } catch (error) {
    complain(error.message);
  }
}

// What is to be sent, and how far it has come: a broken upload goes on where it stopped.
function packed() {
  const named = [...byId("models").querySelectorAll("input:checked")].map((box) => box.value);
  if (!named.length) {
    complain("Choose at least one model.");
    return null;
  }
  const query = new URLSearchParams({ label: byId("label").value, verdict_on: byId("verdict-on").value });
  for (const name of named) query.append("models", name);
  if (chosen.archive && byId("layout").value === "1") query.set("strip", "1");
  const body = chosen.archive ?? tar(chosen.files.map(({ path, file }) => ({ path: arranged(path), file })));
  return { query, body, upload: null, offset: 0 };
}

async function send(request) {
  if (!request) return;
  complain("");
  byId("send").hidden = byId("drop").hidden = true;
  byId("uploading").hidden = byId("upload-stop").hidden = false;
  byId("upload-again").hidden = true;
  stopping = new AbortController();
  say("Uploading");
  try {
    request.upload ??= (await call("POST", "/v1/uploads")).id;
    const place = `/v1/uploads/${request.upload}`;
    while (request.offset < request.body.size) {
      const part = request.body.slice(request.offset, request.offset + PART);
      request.offset = (await again(place, () => call("PATCH", `${place}?offset=${request.offset}`, part))).bytes;
      showProgress(request);
    }
    const job = await again(null, () => call("POST", `/v1/jobs?${request.query}`, JSON.stringify({ upload: request.upload }), "application/json"));
    await showChosen(null);
    location.hash = `#/jobs/${job.id}`;
  } catch (error) {
    if (stopping.signal.aborted) stopped(request);
    else failed(request, error);
  }
}

async function call(method, path, body = null, kind = "application/octet-stream") {
  const headers = body ? { "content-type": kind } : {};
  return (await ask(path, { method, body, headers, signal: stopping.signal })).json();
}

// Asks again for what failed on the way or came too early; an upload says first where it is.
async function again(place, what) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await what();
    } catch (error) {
      const later = !error.status || [409, 429, 502, 503, 504].includes(error.status);
      if (stopping.signal.aborted || !later || attempt === TRIES) throw error;
      await new Promise((done) => setTimeout(done, 1000 * 2 ** attempt));
      if (place && !stopping.signal.aborted) {
        try {
          return await call("GET", place);
        } catch {} // no network yet
      }
    }
  }
}

function showProgress({ offset, body }) {
  byId("upload-bar").value = offset / body.size;
  byId("upload-text").textContent = `${megabytes(offset)} of ${megabytes(body.size)} MB`;
}

async function stopped(request) {
  if (request.upload) await ask(`/v1/uploads/${request.upload}`, { method: "DELETE" }).catch(() => {});
  await showChosen(null);
  dispatchEvent(new Event("jobs-changed"));
}

function failed(request, error) {
  complain(`${error.message} What has been sent is kept.`);
  byId("upload-stop").hidden = true;
  byId("upload-again").hidden = false;
  byId("upload-again").onclick = () => send(request);
  byId("upload-again").focus();
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
