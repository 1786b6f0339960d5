// Texts with less contrast than WCAG 2.2 AA asks for (4.5 to 1), each with its ratio.
function channels(colour) { return colour.match(/[\d.]+/g).map(Number); }
function luminance([red, green, blue]) {
  const linear = [red, green, blue].map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}
function ground(node) {
  for (let at = node; at; at = at.parentElement) {
    const [red, green, blue, alpha = 1] = channels(getComputedStyle(at).backgroundColor);
    if (alpha === 1) return [red, green, blue];
  }
  return [255, 255, 255];
}
const faint = [];
for (const node of document.querySelectorAll("body *")) {
  const text = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  if (!text || !node.getClientRects().length || node.matches("noscript, .skip")) continue;
  const levels = [luminance(channels(getComputedStyle(node).color)), luminance(ground(node))].sort((a, b) => b - a);
  const ratio = (levels[0] + 0.05) / (levels[1] + 0.05);
  if (ratio < 4.5) faint.push(`${ratio.toFixed(2)} ${node.outerHTML.slice(0, 80)}`);
}
return faint;
