"""Objects: a trained run as a classifier in scikit-learn's manners.

Run: python examples/02_classifier.py [RUN [IMAGE ...]]

RUN is a run folder, by default the reference run assets/cxr64. Without images three chest phantoms
are drawn: drawings, not patients, so what the model says about them means nothing.
Research use only, not a medical device.
"""

import sys

from diffdx.classifier import DiffusionClassifier
from diffdx.data import PhantomSpec, draw_phantom
from diffdx.uncertainty import vote_entropy

run = sys.argv[1] if len(sys.argv) > 1 else "assets/cxr64"
names = sys.argv[2:] or [f"phantom {index}" for index in range(3)]
images = sys.argv[2:] or [draw_phantom(PhantomSpec("chest"), index).pixels for index in range(3)]

classifier = DiffusionClassifier.from_pretrained(run, num_trials=11)
print("classes:", ", ".join(classifier.classes_))

shares = classifier.predict_proba(images)
for name, share, entropy_bits in zip(names, shares, vote_entropy(shares), strict=True):
    decision = classifier.classes_[share.argmax()]
    print(f"{name}: {decision}, vote share {share.max():.3f}, entropy {entropy_bits:.3f} bits")
print("A vote share is an effect size, not a probability. Research use only.")
