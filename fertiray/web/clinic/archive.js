// What is inside a dropped folder or archive, and a folder as one tar, without reading the images.

const TABLES = new Set(["labels.csv", "heads.csv", "truth.json", "annotations.json", "Thumbs.db", "desktop.ini"]);

// Hidden files and tables that describe a cohort are left out, as on the server.
export function counts(path) {
  const parts = path.split("/");
  return !parts.some((part) => part.startsWith(".")) && !TABLES.has(parts.at(-1));
}

// Patients and their numbers of images, of paths patient/slide/image.
export function patients(paths, flat) {
  const found = new Map();
  for (const path of paths) {
    const parts = path.split("/");
    const name = parts.length > 1 ? parts[0] : flat;
    found.set(name, (found.get(name) ?? 0) + 1);
  }
  return new Map([...found].sort((a, b) => a[0].localeCompare(b[0], undefined, { numeric: true })));
}

// All files below dropped items: [{path, file}], and the folder's name if it was one folder.
export async function dropped(items) {
  const entries = [...items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  const single = entries.length === 1 && entries[0].isDirectory;
  const found = [];
  for (const entry of entries) await walk(entry, single ? "" : entry.name, found);
  return { name: single ? entries[0].name : null, files: found };
}

async function walk(entry, path, found) {
  if (entry.isFile) {
    found.push({ path, file: await new Promise((done, fail) => entry.file(done, fail)) });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!some.length) return;
    for (const child of some) await walk(child, path ? `${path}/${child.name}` : child.name, found);
  }
}

// A tar of files, as a Blob of the files themselves: nothing is copied until it is sent.
export function tar(files) {
  const parts = [];
  for (const { path, file } of files) {
    const name = new TextEncoder().encode(path);
    if (name.length > 100) parts.push(...long(name));
    parts.push(header(name.slice(0, 100), file.size, "0"), file, new Uint8Array(-file.size & 511));
  }
  parts.push(new Uint8Array(1024));
  return new Blob(parts, { type: "application/x-tar" });
}

function long(name) {
  return [header(new TextEncoder().encode("././@LongLink"), name.length, "L"), name, new Uint8Array(-name.length & 511)];
}

function header(name, size, kind) {
  const block = new Uint8Array(512);
  const text = new TextEncoder();
  block.set(name, 0);
  const put = (at, value) => block.set(text.encode(value), at);
  put(100, "0000600\0");
  put(108, "0000000\0");
  put(116, "0000000\0");
  put(124, size.toString(8).padStart(11, "0") + "\0");
  put(136, "00000000000\0");
  put(148, "        ");
  put(156, kind);
  put(257, "ustar\0" + "00");
  const sum = block.reduce((total, byte) => total + byte, 0);
  put(148, sum.toString(8).padStart(6, "0") + "\0 ");
  return block;
}

// Names of the files in an archive, or null where only the server can look into it.
export async function listing(file) {
  const head = new Uint8Array(await file.slice(0, 265).arrayBuffer());
  if (head[0] === 0x50 && head[1] === 0x4b) return zipNames(file);
  if (new TextDecoder().decode(head.slice(257, 262)) === "ustar") return tarNames(file);
  return null;
}

async function zipNames(file) {
  const start = Math.max(0, file.size - 66000);
  const tail = new DataView(await file.slice(start).arrayBuffer());
  let end = tail.byteLength - 22;
  while (end >= 0 && tail.getUint32(end, true) !== 0x06054b50) end -= 1;
  if (end < 0) return null;
  let [size, place] = [tail.getUint32(end + 12, true), tail.getUint32(end + 16, true)];
  if (end >= 20 && tail.getUint32(end - 20, true) === 0x07064b50) {
    const at = Number(tail.getBigUint64(end - 12, true));
    const record = new DataView(await file.slice(at, at + 56).arrayBuffer());
    size = Number(record.getBigUint64(40, true));
    place = Number(record.getBigUint64(48, true));
  }
  const view = new DataView(await file.slice(place, place + size).arrayBuffer());
  const names = [];
  for (let at = 0; at + 46 <= view.byteLength && view.getUint32(at, true) === 0x02014b50; ) {
    const length = view.getUint16(at + 28, true);
    const name = new TextDecoder().decode(new Uint8Array(view.buffer, at + 46, length)).replaceAll("\\", "/");
    if (!name.endsWith("/")) names.push(name);
    at += 46 + length + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return names;
}

async function tarNames(file) {
  const names = [];
  let longer = null;
  for (let at = 0; at + 512 <= file.size; ) {
    const block = new Uint8Array(await file.slice(at, at + 512).arrayBuffer());
    const text = (from, to) => new TextDecoder().decode(block.slice(from, to)).split("\0")[0];
    if (!block[0]) return names;
    const size = parseInt(text(124, 136), 8);
    const kind = String.fromCharCode(block[156] || 48);
    if (kind === "L" || kind === "x") {
      const value = new TextDecoder().decode(await file.slice(at + 512, at + 512 + size).arrayBuffer());
      longer = kind === "L" ? value.replaceAll("\0", "") : (value.match(/ path=(.*)\n/)?.[1] ?? longer);
    } else {
      const prefix = text(345, 500);
      if (kind === "0") names.push((longer ?? (prefix ? `${prefix}/` : "") + text(0, 100)).replace(/^\.\//, ""));
      longer = null;
    }
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return names;
}
