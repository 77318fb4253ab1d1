// A crop at full size, beside a heatmap of what the network looked at.

import { ask, byId, complain, say } from "/static/base.js";

let addresses = [];

export function zoom(job, { crop, model, title }) {
  const base = `/v1/jobs/${job}/crops/${encodeURIComponent(crop)}`;
  byId("zoom-title").textContent = title;
  byId("zoom-image").removeAttribute("src");
  const heat = () => {
    const query = new URLSearchParams({ model, method: byId("method").value });
    byId("zoom-heat").hidden = true;
    byId("zoom-caption").textContent = "Computing the heatmap";
    picture("zoom-heat", `${base}/heatmap?${query}`).then(() => {
      byId("zoom-caption").textContent = "Where the network looked: bright is where it mattered most";
      say("The heatmap is there");
    }, failed);
  };
  byId("method").onchange = heat;
  byId("zoom").showModal();
  picture("zoom-image", `${base}/image`).catch(failed);
  heat();
}

async function picture(id, path) {
  const address = URL.createObjectURL(await (await ask(path)).blob());
  addresses.push(address);
  byId(id).src = address;
  byId(id).hidden = false;
}

function failed(error) {
  byId("zoom-caption").textContent = error.message;
  complain(error.message);
}

byId("zoom-close").addEventListener("click", () => byId("zoom").close());
byId("zoom").addEventListener("close", () => {
  for (const address of addresses) URL.revokeObjectURL(address);
  addresses = [];
});
