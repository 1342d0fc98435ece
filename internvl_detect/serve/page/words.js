// Every sentence of the page, in English and Chinese, as JSON. Keys of both are the same; {x} is filled in.
export const WORDS = {
  "en": {
    "skip": "Skip to the content", "language": "Language", "theme": "Theme", "themeAuto": "Auto", "themeLight": "Light", "themeDark": "Dark",
    "ask": "Was it made or changed by AI?",
    "lead": "Drop pictures or clips anywhere on this page, paste one, or choose files.",
    "pick": "Choose files", "pickFolder": "Choose a folder", "options": "Options",
    "limits": "Up to {mb} MB a file. Pictures: JPEG, PNG, WebP, GIF, TIFF, AVIF, HEIC. Clips: MP4, MOV, WebM, MKV, AVI.",
    "optExplain": "Add the model's words", "optMask": "Mark suspicious parts", "optFrames": "Frames of a clip to look at",
    "tokenTitle": "This server asks for a token", "tokenWhy": "Its owner makes one with: ivdetect serve token NAME", "tokenLabel": "Token", "tokenGo": "Use it",
    "dropNow": "Drop to check", "stop": "Stop", "model": "Model: {name}", "loading": "The model is loading …",
    "footer": "Files go to this server alone. Uploads are deleted once judged; small previews and results when they expire.",
    "uploading": "Sending {n} … {percent}%", "queued": "Waiting for its turn …", "decoding": "Opening the file …", "judging": "The model is looking …", "finishing": "Almost there …",
    "stepUpload": "Send", "stepDecode": "Open", "stepJudge": "Judge", "stepDone": "Verdict", "ofFiles": "{done} of {total} done",
    "oneFile": "{name}", "manyFiles": "{n} files",
    "fake_ai_generated": "Likely AI-generated", "fake_tampered": "Likely edited", "fake_deepfake": "Likely a deepfake", "fake": "Likely fake",
    "unsure": "Can't tell", "authentic": "No sign of AI", "failed": "Could not be judged", "cancelled": "Stopped before it was judged",
    "why_fake_ai_generated": "The model finds traces that generated pictures have.", "why_fake_tampered": "The model finds signs that a part was changed.",
    "why_fake_deepfake": "The model finds signs that a face was swapped or synthesised.", "why_fake": "The model finds signs that this was made or changed.",
    "why_unsure": "The score lies between the two thresholds: it supports neither answer. A larger or earlier copy may settle it.",
    "why_authentic": "The model found nothing that it looks for. That does not prove that it is real.",
    "why_apart": "Its two parts, the first look and the model, disagree: see the evidence.",
    "whether": "Whether", "whether_yes": "made or edited", "whether_no": "authentic", "where": "Where", "basis": "Judged by", "contradiction": "Contradiction", "source_internvl2": "InternVL2 alone",
    "tag_authentic": "Authentic", "tag_ai_generated": "Generated as a whole", "tag_aigc_editing": "Edited by a generator", "tag_deepfake": "A face swapped", "tag_photoshop": "Edited by hand",
    "why_failed": "The file could not be read.",
    "byC2pa": "Decided by a valid signed statement inside the file, not by the model.",
    "number": "The number behind it", "probability": "Probability of fake", "score": "Raw score of the model", "thresholds": "Thresholds",
    "thresholdsAre": "no sign below {low}, likely fake above {high}",
    "calibrated": "Calibrated: among validation files scored like this one, about {p} were fake. Files of another kind can behave differently.",
    "uncalibrated": "Not calibrated: this is the model's raw score. It puts files in order, but is no share of fakes.",
    "noSign": "no sign", "between": "can't tell", "likelyFake": "likely fake", "under1": "under 1%", "over99": "over 99%",
    "picture": "Picture {name}", "withParts": "With suspicious parts marked", "compare": "Before and after: how much of the marked picture shows",
    "partsFound": "{n} suspicious parts marked", "onePartFound": "1 suspicious part marked", "noParts": "No single part stands out.",
    "zoomIn": "Zoom in", "zoomOut": "Zoom out", "zoomReset": "Fit", "zoomHelp": "Zoom with + and −, move with the arrow keys",
    "mode_plain": "As sent", "mode_marked": "Marked", "mode_split": "Compare",
    "timeline": "Score over time", "scrub": "Moment of the clip", "frameAt": "{time}: score {score}", "stretch_fake": "{from} to {to} looks synthetic", "stretch": "{from} to {to} is the most suspicious part",
    "timelineHelp": "Raw score of each frame looked at; dashed: the thresholds. Click a point, or use the slider and the arrow keys.", "playHere": "Play the clip",
    "evidence": "Evidence", "agree": "points the same way", "disagree": "Points the other way", "noEvidence": "Nothing beside the model's answer.",
    "source_words": "The model's words", "source_c2pa": "Signed origin (C2PA)", "source_metadata": "Metadata", "source_generator_text": "A generator's own note",
    "source_jpeg_history": "JPEG history", "source_container": "Clip container", "source_domain_tag": "First look", "source_copy_move": "Copied within the picture",
    "strength_decides": "decides", "strength_strong": "strong", "strength_weak": "weak", "strength_none": "says little",
    "wordsHint": "An account of its answer, not a proof; it can be right for a wrong reason.", "more": "Details",
    "facts": "About this file", "size": "Size", "kind": "Kind", "kind_image": "picture", "kind_video": "clip", "hash": "SHA-256", "modelName": "Model", "took": "Took", "notes": "Notes", "px": "{w} × {h} pixels", "seconds": "{s} s",
    "copyLink": "Copy link", "copied": "Link copied", "report": "Report", "json": "JSON", "markdown": "Markdown", "forget": "Delete from the server", "forgotten": "Deleted from the server.",
    "all": "All files", "batch": "{n} files", "back": "Back to the list", "open": "Open {name}", "countLine": "{fake} likely fake · {unsure} can't tell · {authentic} no sign · {failed} not judged",
    "history": "Looked at in this session", "clear": "Clear", "readTitle": "How to read a verdict",
    "read1": "A verdict is a model's estimate from the pixels: a reason to look closer, not a proof of either side.",
    "read2": "“No sign of AI” does not say that something is real: new generators, small edits, strong compression and screenshots hide traces.",
    "read3": "“Can't tell” is an answer. Try an earlier or larger copy of the file.",
    "read4": "Marked parts and words are the model's account of its answer; they can be wrong where the verdict is right.",
    "read5": "Compare with what needs no model: the source, the date, other copies, the people shown.",
    "err_busy": "The server is busy. Try again in {s} seconds.", "err_too_large": "That is more than this server takes.", "err_too_many_files": "Too many files at once.",
    "err_no_token": "This server needs a valid token.", "err_network": "The server cannot be reached.", "err_no_job": "There is no such result here. It may have been deleted, or belongs to another token.",
    "err_expired": "This result has expired. Send the file again.", "err_nothing": "No picture or clip was among the files.", "err_other": "That did not work: {message}", "err_stopped": "Stopped.",
    "retry": "Try again", "dismiss": "Dismiss"
  },
  "zh": {
    "skip": "跳到正文", "language": "语言", "theme": "外观", "themeAuto": "自动", "themeLight": "浅色", "themeDark": "深色",
    "ask": "它是由 AI 生成或修改的吗？",
    "lead": "把图片或视频拖到页面任意位置，也可以粘贴或选择文件。",
    "pick": "选择文件", "pickFolder": "选择文件夹", "options": "选项",
    "limits": "每个文件不超过 {mb} MB。图片：JPEG、PNG、WebP、GIF、TIFF、AVIF、HEIC。视频：MP4、MOV、WebM、MKV、AVI。",
    "optExplain": "附上模型的说明", "optMask": "标出可疑部分", "optFrames": "视频检查的帧数",
    "tokenTitle": "此服务器需要令牌", "tokenWhy": "由管理员用此命令生成：ivdetect serve token 名称", "tokenLabel": "令牌", "tokenGo": "使用",
    "dropNow": "松开即可检测", "stop": "停止", "model": "模型：{name}", "loading": "模型正在加载……",
    "footer": "文件只发送到本服务器。上传的文件检测后即删除；缩略图和结果到期删除。",
    "uploading": "正在发送{n}…… {percent}%", "queued": "排队等候……", "decoding": "正在打开文件……", "judging": "模型正在检查……", "finishing": "即将完成……",
    "stepUpload": "发送", "stepDecode": "打开", "stepJudge": "检测", "stepDone": "结论", "ofFiles": "已完成 {done} / {total}",
    "oneFile": "{name}", "manyFiles": "{n} 个文件",
    "fake_ai_generated": "很可能由 AI 生成", "fake_tampered": "很可能经过篡改", "fake_deepfake": "很可能是深度伪造", "fake": "很可能是伪造",
    "unsure": "无法判断", "authentic": "未发现 AI 迹象", "failed": "无法检测", "cancelled": "检测前已停止",
    "why_fake_ai_generated": "模型发现了生成图像常有的痕迹。", "why_fake_tampered": "模型发现有局部被改动的迹象。",
    "why_fake_deepfake": "模型发现有人脸被替换或合成的迹象。", "why_fake": "模型发现了生成或改动的迹象。",
    "why_unsure": "分数位于两个阈值之间，不支持任何一种结论。更大或更早的版本可能会有帮助。",
    "why_authentic": "模型没有发现它所寻找的迹象，但这不能证明内容真实。",
    "why_apart": "初步检查与模型的结论不一致，请看证据。",
    "whether": "结论", "whether_yes": "生成或编辑过", "whether_no": "真实", "where": "位置", "basis": "依据", "contradiction": "相互矛盾", "source_internvl2": "仅 InternVL2",
    "tag_authentic": "真实", "tag_ai_generated": "整图生成", "tag_aigc_editing": "由生成器局部编辑", "tag_deepfake": "换脸", "tag_photoshop": "人工编辑",
    "why_failed": "文件无法读取。",
    "byC2pa": "结论来自文件内有效的签名声明，而不是模型。",
    "number": "结论背后的数字", "probability": "伪造概率", "score": "模型原始分数", "thresholds": "阈值",
    "thresholdsAre": "低于 {low} 为未发现迹象，高于 {high} 为很可能伪造",
    "calibrated": "已校准：在分数相近的验证文件中，约有 {p} 是伪造的。其他类型的文件可能不同。",
    "uncalibrated": "未校准：这是模型的原始分数，可用于排序，但不代表伪造的比例。",
    "noSign": "无迹象", "between": "无法判断", "likelyFake": "很可能伪造", "under1": "不到 1%", "over99": "超过 99%",
    "picture": "图片 {name}", "withParts": "标出可疑部分", "compare": "前后对比：标记图显示多少",
    "partsFound": "标出了 {n} 处可疑部分", "onePartFound": "标出了 1 处可疑部分", "noParts": "没有特别可疑的部分。",
    "zoomIn": "放大", "zoomOut": "缩小", "zoomReset": "适应", "zoomHelp": "用 + 和 − 缩放，用方向键移动",
    "mode_plain": "原图", "mode_marked": "标记", "mode_split": "对比",
    "timeline": "分数随时间变化", "scrub": "视频时刻", "frameAt": "{time}：分数 {score}", "stretch_fake": "{from} 至 {to} 看起来是合成的", "stretch": "{from} 至 {to} 最为可疑",
    "timelineHelp": "所检查各帧的原始分数；虚线为阈值。点击曲线上的点，或使用滑块和方向键。", "playHere": "播放视频",
    "evidence": "证据", "agree": "方向一致", "disagree": "与结论相反", "noEvidence": "除模型结论外没有其他证据。",
    "source_words": "模型的说明", "source_c2pa": "签名来源（C2PA）", "source_metadata": "元数据", "source_generator_text": "生成器留下的信息",
    "source_jpeg_history": "JPEG 历史", "source_container": "视频容器", "source_domain_tag": "初步检查", "source_copy_move": "图内复制",
    "strength_decides": "决定性", "strength_strong": "强", "strength_weak": "弱", "strength_none": "参考意义不大",
    "wordsHint": "这是模型对结论的说明，不是证明；结论对，理由也可能是错的。", "more": "详情",
    "facts": "关于此文件", "size": "尺寸", "kind": "类型", "kind_image": "图片", "kind_video": "视频", "hash": "SHA-256", "modelName": "模型", "took": "用时", "notes": "备注", "px": "{w} × {h} 像素", "seconds": "{s} 秒",
    "copyLink": "复制链接", "copied": "已复制链接", "report": "报告", "json": "JSON", "markdown": "Markdown", "forget": "从服务器删除", "forgotten": "已从服务器删除。",
    "all": "全部文件", "batch": "{n} 个文件", "back": "返回列表", "open": "打开 {name}", "countLine": "{fake} 个很可能伪造 · {unsure} 个无法判断 · {authentic} 个未发现迹象 · {failed} 个未能检测",
    "history": "本次会话中检测过的", "clear": "清除", "readTitle": "如何理解结论",
    "read1": "结论是模型根据像素作出的估计：它提示应当仔细查看，但不能证明任何一方。",
    "read2": "“未发现 AI 迹象”不等于内容真实：新的生成器、细小的修改、强压缩和截图都会掩盖痕迹。",
    "read3": "“无法判断”也是一种回答。可以尝试更早或更大的版本。",
    "read4": "标记的部分和文字是模型对结论的说明；结论正确时它们也可能有误。",
    "read5": "请对照不依赖模型的线索：来源、日期、其他版本、画面中的人物。",
    "err_busy": "服务器繁忙，请在 {s} 秒后重试。", "err_too_large": "超过了此服务器的大小限制。", "err_too_many_files": "一次发送的文件太多。",
    "err_no_token": "此服务器需要有效的令牌。", "err_network": "无法连接服务器。", "err_no_job": "这里没有该结果。它可能已被删除，或属于另一个令牌。",
    "err_expired": "该结果已过期，请重新发送文件。", "err_nothing": "所选文件中没有图片或视频。", "err_other": "操作未成功：{message}", "err_stopped": "已停止。",
    "retry": "重试", "dismiss": "关闭"
  }
};

let language = "en";

/** Choose the language of `say`. */
export function speak(code) {
  language = code in WORDS ? code : "en";
  return language;
}

/** A sentence in the chosen language; `more` fills its {places}. */
export function say(key, more = {}) {
  const text = WORDS[language][key] ?? WORDS.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (all, name) => (name in more ? String(more[name]) : all));
}

/** Whether there is such a sentence. */
export const known = (key) => key in WORDS.en;
