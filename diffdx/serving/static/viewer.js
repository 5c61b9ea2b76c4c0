// The image, and what can be laid over it.

const at = (id) => document.getElementById(id);

export class Viewer {
  constructor(model) {
    this.model = model;
    at("layers").addEventListener("input", () => this.draw());
    this.clear();
  }

  clear() {
    this.pictures = {};
    this.captions = {};
    at("base").removeAttribute("src");
    at("base-caption").textContent = "";
    at("layers").disabled = true;
    at("opacity").value = 0;
    this.enable([]);
    this.choose("evidence");
  }

  // What a browser can decode is shown until the model has seen it.
  preview(file) {
    const address = URL.createObjectURL(file);
    at("base").onload = () => URL.revokeObjectURL(address);
    at("base").onerror = () => at("base").removeAttribute("src");
    at("base").src = address;
  }

  show(job) {
    const side = this.model.image_size;
    this.pictures = { base: job.pictures.image, ...job.pictures };
    this.captions = { evidence: `Red speaks for ${job.result.prediction}, blue against it.` };
    at("base-caption").textContent = `As the model sees it, ${side} × ${side} pixels.`;
    at("layers").disabled = false;
    at("opacity").value = 70;
    this.enable(["evidence"]);
    this.draw();
  }

  showEdit(job) {
    const { source, target } = job.result;
    Object.assign(this.pictures, job.pictures);
    this.captions = {
      evidence: `Red speaks for ${source}, blue for ${target}.`,
      counterfactual: `The image as ${target}.`,
      difference: `Red is brighter as ${target}, blue darker.`,
    };
    this.enable(["evidence", "counterfactual", "difference"]);
    this.choose("counterfactual");
    at("opacity").value = 100;
    this.draw();
  }

  enable(names) {
    for (const radio of document.getElementsByName("layer")) radio.disabled = !names.includes(radio.value);
  }

  choose(name) {
    for (const radio of document.getElementsByName("layer")) radio.checked = radio.value === name;
    this.draw();
  }

  draw() {
    const name = document.querySelector("input[name=layer]:checked").value;
    const over = this.pictures[name];
    at("opacity-out").textContent = `${at("opacity").value}%`;
    at("over").hidden = !over;
    at("layer-caption").textContent = over ? this.captions[name] : "";
    if (!over) return;
    at("base").src = this.pictures.base;
    at("over").src = over;
    at("over").alt = this.captions[name];
    at("over").style.opacity = at("opacity").value / 100;
  }
}
