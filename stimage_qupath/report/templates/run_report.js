"use strict";
(() => {
  const about = JSON.parse(document.getElementById("about").textContent);
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const MISSING = 65535, LEVELS = 65534;

  // ---- theme: automatic, light, dark -------------------------------------------------------------------------
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const themes = ["automatic", "light", "dark"];
  let theme = "automatic";
  try { theme = localStorage.getItem("stimage-theme") || theme; } catch { /* a page from disk may have no storage */ }
  if (!themes.includes(theme)) theme = "automatic";
  function showTheme() {
    root.dataset.theme = theme === "automatic" ? (system.matches ? "dark" : "light") : theme;
    byId("theme").textContent = "Theme: " + theme;
    queue();
  }
  byId("theme").hidden = false;
  byId("theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    try { localStorage.setItem("stimage-theme", theme); } catch { /* see above */ }
    showTheme();
  });
  system.addEventListener("change", showTheme);

  // ---- arrays ------------------------------------------------------------------------------------------------
  function bytes(name) {
    const text = atob(byId("array-" + name).textContent);
    const found = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) found[i] = text.charCodeAt(i);
    return found;
  }
  function words(name) {
    const raw = bytes(name), view = new DataView(raw.buffer), found = new Uint16Array(raw.length / 2);
    for (let i = 0; i < found.length; i++) found[i] = view.getUint16(2 * i, true);
    return found;
  }
  const places = words("places"), count = places.length / 2;
  const px = new Float32Array(count), py = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    px[i] = places[2 * i] / 65535 * about.width;
    py[i] = places[2 * i + 1] / 65535 * about.height;
  }
  const outside = about.has_outside ? bytes("outside") : null;
  const codes = new Map();
  function codesOf(index) {
    if (!codes.has(index)) codes.set(index, words("layer-" + index));
    return codes.get(index);
  }
  function valueOf(index, nucleus) {
    const layer = about.layers[index], code = codesOf(index)[nucleus];
    if (code === MISSING) return null;
    return layer.classes ? layer.classes[code][0] : layer.low + code / LEVELS * (layer.high - layer.low);
  }
  function shown(value) {
    if (value === null || value === undefined) return "–";
    if (typeof value === "string") return value;
    const size = Math.abs(value);
    if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(2);
    return value.toLocaleString("en", { maximumSignificantDigits: size >= 1000 ? 4 : 3 });
  }

  // ---- colours -----------------------------------------------------------------------------------------------
  const GREY = "#9aa0a6";
  function paletteOf(layer) {
    return layer.classes ? layer.classes.map((pair) => pair[1]) : about.colours[layer.scale];
  }
  // The bin of a nucleus is a place in the palette, or -1 for grey.
  function binsOf(index) {
    const layer = about.layers[index], values = codesOf(index), bins = new Int16Array(count);
    const steps = paletteOf(layer).length, greyOut = byId("grey").checked && outside && layer.gene !== null;
    const span = layer.high - layer.low;
    for (let i = 0; i < count; i++) {
      const code = values[i];
      if (code === MISSING || (greyOut && outside[i])) { bins[i] = -1; continue; }
      if (layer.classes) { bins[i] = code; continue; }
      const value = layer.low + code / LEVELS * span;
      const share = (value - layer.limits[0]) / (layer.limits[1] - layer.limits[0]);
      bins[i] = Math.max(0, Math.min(steps - 1, Math.floor(share * steps)));
    }
    return bins;
  }
  // Nuclei of each bin together, so that a colour is set once a drawing.
  function grouped(bins, colours) {
    const starts = new Uint32Array(colours + 2);
    for (let i = 0; i < count; i++) starts[bins[i] + 2]++;
    for (let b = 1; b < starts.length; b++) starts[b] += starts[b - 1];
    const order = new Uint32Array(count), next = starts.slice();
    for (let i = 0; i < count; i++) order[next[bins[i] + 1]++] = i;
    return { order, starts };
  }

  // ---- state -------------------------------------------------------------------------------------------------
  const canvas = byId("view"), pen = canvas.getContext("2d");
  const background = byId("background");
  let current = 0, groups = null, palette = [], nearest = -1, chosenRegion = -1;
  let scale = 1, left = 0, top = 0;   // screen = (slide - corner) * scale, in CSS pixels
  let waiting = false, fitted = true;
  function queue() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }
  const genes = [...new Set(about.layers.filter((l) => l.gene !== null).map((l) => l.gene))];
  const find = (gene, quantity) => about.layers.findIndex((l) => l.gene === gene && l.quantity === quantity);

  function choose(index) {
    if (index < 0) return;
    current = index;
    const layer = about.layers[index];
    palette = paletteOf(layer);
    groups = grouped(binsOf(index), palette.length);
    canvas.dataset.layer = (layer.gene === null ? "" : layer.gene + " ") + layer.quantity;
    if (layer.gene !== null) { byId("gene").value = layer.gene; byId("other").value = ""; }
    else byId("other").value = String(index);
    showQuantities(layer);
    showLegend(layer);
    showNucleus();
    queue();
  }
  function option(select, value, text) {
    const made = document.createElement("option");
    made.value = value;
    made.textContent = text;
    select.append(made);
  }
  function showQuantities(layer) {
    const box = byId("quantities");
    box.replaceChildren();
    const gene = byId("gene").value;
    for (const one of about.layers.filter((l) => l.gene !== null && l.gene === gene)) {
      const label = document.createElement("label"), input = document.createElement("input");
      const text = document.createElement("span");
      input.type = "radio";
      input.name = "quantity";
      input.value = one.quantity;
      input.checked = one === layer;
      input.addEventListener("change", () => choose(find(gene, one.quantity)));
      text.textContent = one.quantity;
      label.append(input, text);
      box.append(label);
    }
  }

  // ---- legend: the distribution over the colours ---------------------------------------------------------------
  const SVG = "http://www.w3.org/2000/svg";
  function showLegend(layer) {
    const box = byId("legend");
    box.replaceChildren();
    const name = document.createElement("strong");
    name.textContent = (layer.gene === null ? "" : layer.gene + ", ") + layer.quantity;
    box.append(name);
    const greyed = groups.starts[1];
    if (layer.classes) box.append(classKeys(layer));
    else box.append(histogram(layer), bar(), ends(layer));
    const unit = document.createElement("p");
    unit.className = "unit";
    unit.textContent = layer.unit + (greyed ? (layer.unit ? "; " : "") + "grey: " + greyed.toLocaleString("en") + " nuclei" : "");
    box.append(unit);
  }
  function classKeys(layer) {
    const list = document.createElement("ul");
    list.className = "keys";
    layer.classes.forEach(([name, colour], code) => {
      const item = document.createElement("li"), dot = document.createElement("span");
      dot.className = "swatch";
      dot.style.background = colour;
      const number = groups.starts[code + 2] - groups.starts[code + 1];
      item.append(dot, document.createTextNode(name + " (" + number.toLocaleString("en") + ")"));
      list.append(item);
    });
    return list;
  }
  function histogram(layer) {
    const picture = document.createElementNS(SVG, "svg"), steps = palette.length;
    picture.setAttribute("viewBox", "0 0 " + steps + " 40");
    picture.setAttribute("preserveAspectRatio", "none");
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", "Distribution of " + layer.quantity + " over the nuclei");
    let most = 1;
    for (let b = 0; b < steps; b++) most = Math.max(most, groups.starts[b + 2] - groups.starts[b + 1]);
    for (let b = 0; b < steps; b++) {
      const height = (groups.starts[b + 2] - groups.starts[b + 1]) / most * 39;
      const column = document.createElementNS(SVG, "rect");
      for (const [key, value] of [["x", b], ["y", 40 - height], ["width", 1.02], ["height", height]]) column.setAttribute(key, value);
      column.setAttribute("fill", palette[b]);
      picture.append(column);
    }
    return picture;
  }
  function bar() {
    const made = document.createElement("div");
    made.className = "bar";
    made.style.background = "linear-gradient(to right," + palette.join(",") + ")";
    return made;
  }
  function ends(layer) {
    const made = document.createElement("div");
    made.className = "ends";
    const [low, high] = layer.limits;
    for (const [sign, value] of [[layer.low < low ? "≤ " : "", low], ["", (low + high) / 2], [layer.high > high ? "≥ " : "", high]]) {
      const end = document.createElement("span");
      end.textContent = sign + shown(value);
      made.append(end);
    }
    return made;
  }

  // ---- drawing -------------------------------------------------------------------------------------------------
  function fit(box) {
    const [x, y, w, h] = box, width = canvas.clientWidth, height = canvas.clientHeight;
    scale = Math.min(width / w, height / h) * 0.96;
    left = x + w / 2 - width / scale / 2;
    top = y + h / 2 - height / scale / 2;
    queue();
  }
  function all() { chosenRegion = -1; fitted = true; fit(about.home); }
  function zoom(factor, x, y) {
    const most = 12 * Math.max(1, 0.5 / about.mpp), least = Math.min(canvas.clientWidth / about.width, canvas.clientHeight / about.height) / 3;
    const next = Math.max(least, Math.min(most, scale * factor));
    left += x / scale - x / next;
    top += y / scale - y / next;
    scale = next;
    fitted = false;
    queue();
  }
  function move(dx, dy) { left += dx / scale; top += dy / scale; fitted = false; queue(); }

  function drawNuclei(width, height) {
    const radius = Math.max(scale * about.radius_px, Math.min(2.2, Math.max(0.9, 0.55 * Math.sqrt(width * height / Math.max(count, 1)) / 2)));
    const right = left + width / scale, bottom = top + height / scale, margin = radius / scale;
    const round = radius > 1.6;
    let drawn = 0;
    pen.globalAlpha = Number(byId("dots").value) / 100;
    for (let b = 0; b <= palette.length; b++) {
      pen.fillStyle = b === 0 ? GREY : palette[b - 1];
      pen.beginPath();
      for (let k = groups.starts[b]; k < groups.starts[b + 1]; k++) {
        const i = groups.order[k], x = px[i], y = py[i];
        if (x < left - margin || x > right + margin || y < top - margin || y > bottom + margin) continue;
        const sx = (x - left) * scale, sy = (y - top) * scale;
        if (round) { pen.moveTo(sx + radius, sy); pen.arc(sx, sy, radius, 0, 6.2832); }
        else pen.rect(sx - radius, sy - radius, 2 * radius, 2 * radius);
        drawn++;
      }
      pen.fill();
    }
    pen.globalAlpha = 1;
    canvas.dataset.drawn = drawn;
    return radius;
  }
  function drawRegions() {
    about.regions.forEach((region, number) => {
      const chosen = number === chosenRegion;
      pen.beginPath();
      for (const ring of region.rings) {
        for (let k = 0; k < ring.length; k += 2) {
          const x = (ring[k] - left) * scale, y = (ring[k + 1] - top) * scale;
          if (k) pen.lineTo(x, y); else pen.moveTo(x, y);
        }
        pen.closePath();
      }
      pen.lineJoin = "round";
      pen.strokeStyle = "rgba(255,255,255,.85)";
      pen.lineWidth = chosen ? 6 : 3.5;
      pen.stroke();
      pen.strokeStyle = region.colour;
      pen.lineWidth = chosen ? 3.5 : 1.8;
      pen.stroke();
    });
    pen.font = "600 12px system-ui, sans-serif";
    pen.textAlign = "center";
    const taken = [];   // captions that would cover another are left out until there is room
    for (const region of about.regions) {
      if (!region.caption) continue;
      const x = (region.at[0] - left) * scale, y = (region.at[1] - top) * scale - 8;
      const half = pen.measureText(region.caption).width / 2 + 4;
      if (taken.some((other) => Math.abs(other[0] - x) < other[2] + half && Math.abs(other[1] - y) < 16)) continue;
      taken.push([x, y, half]);
      pen.lineWidth = 3.5;
      pen.strokeStyle = "rgba(255,255,255,.9)";
      pen.strokeText(region.caption, x, y);
      pen.fillStyle = "#14181c";
      pen.fillText(region.caption, x, y);
    }
  }
  function drawScale(width, height) {
    const perPixel = about.mpp / scale, wanted = perPixel * Math.min(160, width / 4);
    const power = Math.pow(10, Math.floor(Math.log10(wanted)));
    const length = [5, 2, 1].map((n) => n * power).find((l) => l <= wanted) || power;
    const size = length / perPixel, y = height - 16;
    pen.fillStyle = "rgba(255,255,255,.85)";
    pen.fillRect(10, y - 22, size + 16, 30);
    pen.fillStyle = "#14181c";
    pen.fillRect(18, y, size, 3);
    pen.font = "12px system-ui, sans-serif";
    pen.textAlign = "left";
    pen.fillText(length >= 1000 ? length / 1000 + " mm" : length + " µm", 18, y - 6);
  }
  function draw() {
    const width = canvas.clientWidth, height = canvas.clientHeight, ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      if (fitted) { fit(about.home); waiting = false; }
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = getComputedStyle(root).getPropertyValue("--stage");
    pen.fillRect(0, 0, width, height);
    if (background && background.complete && background.naturalWidth) {
      pen.globalAlpha = Number(byId("picture").value) / 100;
      pen.imageSmoothingQuality = "high";
      pen.drawImage(background, -left * scale, -top * scale, about.width * scale, about.height * scale);
      pen.globalAlpha = 1;
    }
    const radius = groups ? drawNuclei(width, height) : 1;
    if (byId("annotations").checked) drawRegions();
    if (nearest >= 0) {
      const x = (px[nearest] - left) * scale, y = (py[nearest] - top) * scale;
      for (const [colour, line] of [["#ffffff", 4], ["#14181c", 2]]) {
        pen.beginPath();
        pen.arc(x, y, radius + 4, 0, 6.2832);
        pen.strokeStyle = colour;
        pen.lineWidth = line;
        pen.stroke();
      }
    }
    drawScale(width, height);
    canvas.dataset.scale = scale.toPrecision(4);
    canvas.dataset.corner = left.toFixed(1) + "," + top.toFixed(1);
  }

  // ---- the nearest nucleus -----------------------------------------------------------------------------------
  const CELL = Math.max(1, Math.sqrt(about.width * about.height / Math.max(count, 1)) * 2);
  const columns = Math.ceil(about.width / CELL) + 1, lines = Math.ceil(about.height / CELL) + 1;
  const gridStart = new Uint32Array(columns * lines + 1), inGrid = new Uint32Array(count);
  const square = (i) => Math.floor(py[i] / CELL) * columns + Math.floor(px[i] / CELL);
  for (let i = 0; i < count; i++) gridStart[square(i) + 1]++;
  for (let c = 1; c < gridStart.length; c++) gridStart[c] += gridStart[c - 1];
  {
    const next = gridStart.slice();
    for (let i = 0; i < count; i++) inGrid[next[square(i)]++] = i;
  }
  function nearestTo(x, y, reach) {
    let best = -1, least = reach * reach;
    const c0 = Math.max(0, Math.floor((x - reach) / CELL)), c1 = Math.min(columns - 1, Math.floor((x + reach) / CELL));
    const l0 = Math.max(0, Math.floor((y - reach) / CELL)), l1 = Math.min(lines - 1, Math.floor((y + reach) / CELL));
    for (let l = l0; l <= l1; l++) for (let c = c0; c <= c1; c++) {
      for (let k = gridStart[l * columns + c]; k < gridStart[l * columns + c + 1]; k++) {
        const i = inGrid[k], d = (px[i] - x) ** 2 + (py[i] - y) ** 2;
        if (d < least) { least = d; best = i; }
      }
    }
    return best;
  }
  function row(list, name, value) {
    const term = document.createElement("dt"), said = document.createElement("dd");
    term.textContent = name;
    said.textContent = value;
    list.append(term, said);
  }
  function showNucleus() {
    const list = byId("values");
    list.replaceChildren();
    canvas.dataset.nucleus = nearest;
    if (nearest < 0) { row(list, "none here", ""); return; }
    const gene = byId("gene").value;
    about.layers.forEach((layer, index) => {
      if (layer.gene !== null && layer.gene === gene) row(list, gene + ", " + layer.quantity, shown(valueOf(index, nearest)));
    });
    about.layers.forEach((layer, index) => {
      if (layer.gene === null) row(list, layer.quantity, shown(valueOf(index, nearest)));
    });
    if (outside && outside[nearest]) row(list, "outside training", "yes");
    row(list, "place, px", Math.round(px[nearest]) + ", " + Math.round(py[nearest]));
  }
  function look(x, y, reach) {
    const found = nearestTo(left + x / scale, top + y / scale, reach / scale);
    if (found === nearest) return;
    nearest = found;
    showNucleus();
    queue();
  }
  const tip = byId("tip");
  function showTip(x, y) {
    tip.hidden = nearest < 0;
    if (nearest < 0) return;
    const layer = about.layers[current], value = document.createElement("strong");
    if (!layer) { tip.hidden = true; return; }
    value.textContent = shown(valueOf(current, nearest));
    tip.replaceChildren(document.createTextNode((layer.gene === null ? "" : layer.gene + " ") + layer.quantity + " "), value);
    tip.style.left = Math.min(x + 14, canvas.clientWidth - tip.offsetWidth - 4) + "px";
    tip.style.top = Math.max(4, y - tip.offsetHeight - 10) + "px";
  }

  // ---- pointer, wheel, keys ------------------------------------------------------------------------------------
  const pointers = new Map();
  const placeOf = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, placeOf(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = placeOf(event), before = pointers.get(event.pointerId);
    if (before && pointers.size === 1) move(before[0] - now[0], before[1] - now[1]);
    if (before && pointers.size === 2) {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const apart = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }
    if (before) pointers.set(event.pointerId, now);
    look(now[0], now[1], 14);
    showTip(now[0], now[1]);
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const [x, y] = placeOf(event);
    zoom(Math.exp(-Math.max(-240, Math.min(240, event.deltaY)) / 400), x, y);
  }, { passive: false });

  function stepGene(by) {
    if (!genes.length) return;
    const layer = about.layers[current], here = genes.indexOf(byId("gene").value);
    const gene = genes[(here + by + genes.length) % genes.length];
    const same = layer.gene === null ? -1 : find(gene, layer.quantity);
    choose(same >= 0 ? same : about.layers.findIndex((l) => l.gene === gene));
  }
  function stepLayer(by) { choose((current + by + about.layers.length) % about.layers.length); }
  const middle = () => [canvas.clientWidth / 2, canvas.clientHeight / 2];
  const keys = {
    ArrowLeft: () => move(-60, 0), ArrowRight: () => move(60, 0), ArrowUp: () => move(0, -60), ArrowDown: () => move(0, 60),
    "+": () => zoom(1.4, ...middle()), "=": () => zoom(1.4, ...middle()), "-": () => zoom(1 / 1.4, ...middle()),
    0: all, ",": () => stepGene(-1), ".": () => stepGene(1), "[": () => stepLayer(-1), "]": () => stepLayer(1),
    a: () => byId("annotations").click(), s: () => byId("save").click(),
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = keys[event.key] || keys[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
    tip.hidden = true;
    look(...middle(), Math.max(canvas.clientWidth, canvas.clientHeight) / 4);
  });
  byId("closer").addEventListener("click", () => zoom(1.4, ...middle()));
  byId("farther").addEventListener("click", () => zoom(1 / 1.4, ...middle()));
  byId("all").addEventListener("click", all);
  byId("save").addEventListener("click", () => {
    draw();
    const link = document.createElement("a");
    link.download = (canvas.dataset.layer || "slide").replace(/[^\w.-]+/g, "_") + ".png";
    link.href = canvas.toDataURL("image/png");
    link.click();
  });
  for (const id of ["dots", "picture", "annotations"]) byId(id).addEventListener("input", queue);
  byId("grey").addEventListener("input", () => choose(current));
  byId("gene").addEventListener("change", () => {
    const layer = about.layers[current], same = layer.gene === null ? -1 : find(byId("gene").value, layer.quantity);
    choose(same >= 0 ? same : about.layers.findIndex((l) => l.gene === byId("gene").value));
  });
  byId("other").addEventListener("change", () => {
    if (byId("other").value !== "") choose(Number(byId("other").value));
    else choose(about.layers.findIndex((l) => l.gene !== null));
  });
  new ResizeObserver(queue).observe(canvas);

  // ---- tables --------------------------------------------------------------------------------------------------
  function sort(table, column, head) {
    const down = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && column === 0);
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "ascending" : "descending");
    const key = (line) => {
      const cell = line.cells[column];
      return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
    };
    const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
    const rows = [...table.tBodies[0].rows].map((line) => [key(line), line]);
    rows.sort((a, b) => (down ? 1 : -1) * order(a[0], b[0]));
    table.tBodies[0].append(...rows.map((pair) => pair[1]));
  }
  for (const table of document.querySelectorAll("table.sorts")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      head.firstElementChild.addEventListener("click", () => sort(table, column, head));
    });
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-gene], button[data-region]");
    if (!button) return;
    if (button.dataset.gene !== undefined) {
      const layer = about.layers[current], same = layer.gene === null ? -1 : find(button.dataset.gene, layer.quantity);
      choose(same >= 0 ? same : about.layers.findIndex((l) => l.gene === button.dataset.gene));
    } else {
      chosenRegion = Number(button.dataset.region);
      fitted = false;
      fit(about.regions[chosenRegion].box);
    }
    byId("slide").scrollIntoView();
    canvas.focus({ preventScroll: true });
  });

  // ---- start ---------------------------------------------------------------------------------------------------
  for (const gene of genes) option(byId("gene"), gene, gene);
  byId("gene").disabled = !genes.length;
  option(byId("other"), "", genes.length ? "– a gene –" : "–");
  about.layers.forEach((layer, index) => { if (layer.gene === null) option(byId("other"), String(index), layer.quantity); });
  byId("annotations").disabled = !about.regions.length;
  showTheme();
  fit(about.home);
  if (about.layers.length) choose(0);
  if (background) background.addEventListener("load", queue);
  requestAnimationFrame(() => { draw(); root.dataset.ready = String(Math.round(performance.now())); });
})();
