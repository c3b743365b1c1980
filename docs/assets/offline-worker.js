// Browsers refuse Workers on file://, and the site's search is one. There, and only there, a hidden frame takes its place:
// same messages both ways, copied as between threads (else either side changes what the other holds), one thread. The script
// is added as an element, which file:// allows; a fetch it does not.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.onmessage = this.onerror = this.onmessageerror = null
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.append(this.frame)
      const inside = this.frame.contentWindow
      const tell = (name, event) => { this[name]?.(event); this.dispatchEvent(event) }
      this.copied = (data) => new MessageEvent("message", { data: structuredClone(data) })
      inside.postMessage = (data) => tell("onmessage", this.copied(data))
      inside.importScripts = (...urls) => urls.reduce((before, next) => before.then(() => this.load(next)), Promise.resolve())
      this.ready = this.load(url).catch(() => tell("onerror", new ErrorEvent("error")))
    }
    load(url) {
      return new Promise((done, fail) => {
        const script = this.frame.contentDocument.createElement("script")
        Object.assign(script, { src: new URL(url, document.baseURI).href, onload: done, onerror: fail })
        this.frame.contentDocument.body.append(script)
      })
    }
    postMessage(data) {
      const event = this.copied(data)
      this.ready.then(() => this.frame.contentWindow?.dispatchEvent(event))
    }
    terminate() { this.frame.remove() }
  }
}
