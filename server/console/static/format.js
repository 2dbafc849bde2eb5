// Numbers for people.

const COUNT = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A count, with thousands apart. */
export const count = (value) => COUNT.format(value);

/** A number with so many significant digits at least. */
export function digits(value, figures = 3) {
  if (!Number.isFinite(value)) return "–";
  const magnitude = value === 0 ? 0 : Math.floor(Math.log10(Math.abs(value)));
  return value.toFixed(Math.max(0, Math.min(figures - 1 - magnitude, 4)));
}

/** Seconds, in the unit that suits them. */
export function seconds(value) {
  if (!Number.isFinite(value)) return "–";
  if (value < 0.0000005) return "0 s";
  if (value < 1) return `${digits(value * 1000)} ms`;
  if (value < 120) return `${digits(value)} s`;
  return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

/** Bytes, in the unit that suits them. */
export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit ? digits(value) : value} ${units[unit]}`;
}

/** A part of a whole. */
export const percent = (part, whole) => (whole ? `${Math.round((100 * part) / whole)} %` : "–");

/** A share between 0 and 1, with more digits where it is small. */
export function probability(value) {
  if (value >= 0.9995) return "100 %";
  return value >= 0.01 ? `${(100 * value).toFixed(1)} %` : `${digits(100 * value, 2)} %`;
}

/** One of something, or several. */
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
