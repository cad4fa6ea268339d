"""References on demand: bibtex for exactly what is in use."""

from __future__ import annotations

# By what the docstring of a method says: an arXiv number, or authors and year.
_BIBTEX = {
    "Rumelhart, Hinton, Williams, 1986": """@article{rumelhart1986learning,
  title={Learning representations by back-propagating errors},
  author={Rumelhart, David E and Hinton, Geoffrey E and Williams, Ronald J},
  journal={Nature},
  volume={323},
  pages={533--536},
  year={1986}
}""",
    "Spall, 1992": """@article{spall1992multivariate,
  title={Multivariate stochastic approximation using a simultaneous perturbation gradient approximation},
  author={Spall, James C},
  journal={IEEE Transactions on Automatic Control},
  volume={37},
  number={3},
  pages={332--341},
  year={1992}
}""",
    "2202.08587": """@article{baydin2022gradients,
  title={Gradients without Backpropagation},
  author={Baydin, Atilim G{\\"u}ne{\\c{s}} and Pearlmutter, Barak A and Syme, Don and Wood, Frank and Torr, Philip},
  journal={arXiv preprint arXiv:2202.08587},
  year={2022}
}""",
    "2410.17764": """@article{fluegel2024beyond,
  title={Beyond Backpropagation: Optimization with Multi-Tangent Forward Gradients},
  author={Fl{\\"u}gel, Katharina and Coquelin, Daniel and Weiel, Marie and Streit, Achim and G{\\"o}tz, Markus},
  journal={arXiv preprint arXiv:2410.17764},
  year={2024}
}""",
    "2305.17333": """@article{malladi2023finetuning,
  title={Fine-Tuning Language Models with Just Forward Passes},
  author={Malladi, Sadhika and Gao, Tianyu and Nichani, Eshaan and Damian, Alex and Lee, Jason D and Chen, Danqi
    and Arora, Sanjeev},
  journal={arXiv preprint arXiv:2305.17333},
  year={2023}
}""",
    "2406.14095": """@article{shen2024memory,
  title={Memory-Efficient Gradient Unrolling for Large-Scale Bi-level Optimization},
  author={Shen, Qianli and others},
  journal={arXiv preprint arXiv:2406.14095},
  year={2024}
}""",
    "2405.02952": """@article{arisaka2024accelerating,
  title={Accelerating Legacy Numerical Solvers by Non-intrusive Gradient-based Meta-solving},
  author={Arisaka, Sohei and Li, Qianxiao},
  journal={arXiv preprint arXiv:2405.02952},
  year={2024}
}""",
    "1604.06174": """@article{chen2016training,
  title={Training Deep Nets with Sublinear Memory Cost},
  author={Chen, Tianqi and Xu, Bing and Zhang, Chiyuan and Guestrin, Carlos},
  journal={arXiv preprint arXiv:1604.06174},
  year={2016}
}""",
    "2306.09782": """@article{lv2023full,
  title={Full Parameter Fine-tuning for Large Language Models with Limited Resources},
  author={Lv, Kai and Yang, Yuqing and Liu, Tengxiao and Gao, Qinghui and Guo, Qipeng and Qiu, Xipeng},
  journal={arXiv preprint arXiv:2306.09782},
  year={2023}
}""",
    "2212.07282": """@article{bacho2022low,
  title={Low-Variance Forward Gradients using Direct Feedback Alignment and Momentum},
  author={Bacho, Florian and Chu, Dominique},
  journal={arXiv preprint arXiv:2212.07282},
  year={2022}
}""",
    "1609.01596": """@inproceedings{nokland2016direct,
  title={Direct Feedback Alignment Provides Learning in Deep Neural Networks},
  author={N{\\o}kland, Arild},
  booktitle={Advances in Neural Information Processing Systems},
  year={2016},
  eprint={1609.01596}
}""",
    "2210.03310": """@article{ren2022scaling,
  title={Scaling Forward Gradient With Local Losses},
  author={Ren, Mengye and Kornblith, Simon and Liao, Renjie and Hinton, Geoffrey},
  journal={arXiv preprint arXiv:2210.03310},
  year={2022}
}""",
    "Webster, Choi and Ahn, 2020": """@misc{webster2020learning,
  title={Learning the Connections in Direct Feedback Alignment},
  author={Webster, Matthew Bailey and Choi, Jonghyun and Ahn, Changwook},
  year={2020}
}""",
    "1809.03054": """@inproceedings{hanzely2018sega,
  title={{SEGA}: Variance Reduction via Gradient Sketching},
  author={Hanzely, Filip and Mishchenko, Konstantin and Richt{\\'a}rik, Peter},
  booktitle={Advances in Neural Information Processing Systems},
  year={2018},
  eprint={1809.03054}
}""",
    "2405.15551": """@inproceedings{panchal2024thinking,
  title={Thinking Forward: Memory-Efficient Federated Finetuning of Language Models},
  author={Panchal, Kunjal and others},
  booktitle={Advances in Neural Information Processing Systems},
  year={2024},
  eprint={2405.15551}
}""",
    "2402.14212": """@article{krylov2024moonwalk,
  title={Moonwalk: Inverse-Forward Differentiation},
  author={Krylov, Dmitrii and Karamzade, Armin and Fox, Roy},
  journal={arXiv preprint arXiv:2402.14212},
  year={2024}
}""",
    "2411.04036": """@inproceedings{feng2024stepping,
  title={Stepping Forward on the Last Mile},
  author={Feng and others},
  booktitle={Advances in Neural Information Processing Systems},
  year={2024},
  eprint={2411.04036}
}""",
    "2403.12511": """@article{rostami2024projected,
  title={Projected Forward Gradient-Guided {Frank-Wolfe} Algorithm via Variance Reduction},
  author={Rostami, M. and Kia, S. S.},
  journal={arXiv preprint arXiv:2403.12511},
  year={2024}
}""",
}


def cite(*methods: object) -> str:
    """Bibtex entries of the papers that the docstrings of `methods` refer to, each once.

    Args:
        methods: methods, or their classes.
    """
    docs = [(m if isinstance(m, type) else type(m)).__doc__ or "" for m in methods]
    return "\n\n".join(entry for paper, entry in _BIBTEX.items() if any(paper in doc for doc in docs))
