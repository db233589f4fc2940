// What the student says of one image, from its logits: the twin of Student.predict in vl2v_deploy/client/student.py.

/**
 * { label, probability, top, abstained }
 *
 * logits: (K), calibrated inside the graph, so that their softmax is the confidence
 * classes: K names, in the order of the logits
 * abstainBelow: confidence under which the label should not be relied on; null where none was fitted
 * count: how many { label, probability } are in top, falling
 */
export function answerOf(logits, classes, abstainBelow, count = 3) {
  const largest = logits.reduce((left, right) => Math.max(left, right));
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = powers.reduce((total, power) => total + power, 0);
  const top = powers
    .map((power, index) => ({ label: classes[index], probability: power / sum }))
    .sort((left, right) => right.probability - left.probability)
    .slice(0, count);
  return { ...top[0], top, abstained: !(top[0].probability >= (abstainBelow ?? 0)) };
}
