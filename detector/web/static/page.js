// Images reach the page by dropping, choosing, pasting or the camera. Files are sent as they are; the browser keeps them, the server
// does not, so heat maps, the report and changed options send them again.
(() => {
  const by = id => document.getElementById(id);
  const form = by('form');
  let files = [], stream = null, request = 0;

  const formOf = all => {
    const body = new FormData(form);
    for (const file of all) body.append('image', file, file.name);
    return body;
  };

  const post = async (path, body) => {
    let answer;
    try {
      answer = await fetch(path, {method: 'POST', body});
    } catch {
      throw new Error('The server does not answer. Is it still running?');
    }
    if (answer.ok) return answer;
    const {detail} = await answer.json().catch(() => ({}));
    throw new Error(detail || `The server is busy or failed (status ${answer.status}). Try again.`);
  };

  const show = (id, text) => {
    by(id).textContent = text;
    by(id).hidden = !text;
  };

  const refusal = all => {
    const most = Number(form.dataset.maxImages), size = Number(form.dataset.maxFile);
    if (all.length > most) return `Expected at most ${most} images, found ${all.length}. Give fewer, or use the command line.`;
    const large = all.find(file => file.size > size);
    return large ? `${large.name}: expected at most ${size >> 20} MB, found ${(large.size / 2 ** 20).toFixed(1)} MB.` : '';
  };

  const busy = async (text, work) => {
    show('problem', '');
    show('status', text);
    try {
      return await work();
    } catch (error) {
      show('problem', error.message);
    } finally {
      show('status', '');
    }
  };

  const analyse = async all => {
    if (!all.length) return;
    const problem = refusal(all);
    if (problem) return show('problem', problem);
    files = all;
    const mine = ++request;
    const text = `Analysing ${all.length === 1 ? all[0].name : `${all.length} images`} …`;
    const html = await busy(text, async () => (await post('/results', formOf(all))).text());
    if (html === undefined || mine !== request) return;  // other images were given meanwhile
    const result = by('result');
    result.innerHTML = html;  // from our own server, where every text is escaped
    if (result.getBoundingClientRect().top > 0.6 * innerHeight) result.scrollIntoView({behavior: 'smooth'});
    for (const image of result.querySelectorAll('[data-heat-map]')) {
      const body = new FormData();
      body.append('image', all[image.dataset.heatMap]);
      body.append('detector', image.dataset.detector);
      const caption = image.nextElementSibling;
      try {
        const png = await (await post('/explain', body)).blob();
        if (mine !== request) return;
        image.src = URL.createObjectURL(png);
        image.onload = () => URL.revokeObjectURL(image.src);
        caption.textContent = '';
      } catch (error) {
        caption.textContent = error.message;
      }
    }
  };

  const download = async () => {
    const html = await busy('Making the report …', async () => (await post('/report', formOf(files))).blob());
    if (!html) return;
    const link = document.createElement('a');
    link.href = URL.createObjectURL(html);
    link.download = 'report.html';
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };

  const stop = () => {
    stream?.getTracks().forEach(track => track.stop());
    stream = null;
  };
  const shoot = () => {
    const video = by('video'), canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    if (!canvas.width) return;
    canvas.getContext('2d').drawImage(video, 0, 0);
    canvas.toBlob(png => { by('dialog').close(); analyse([new File([png], 'camera.png', {type: 'image/png'})]); });
  };
  const open = async () => {
    by('dialog').addEventListener('close', stop, {once: true});
    by('dialog').showModal();
    by('camera-problem').textContent = '';
    try {
      stream = await navigator.mediaDevices.getUserMedia({video: {width: {ideal: 1920}}});
      by('video').srcObject = stream;
    } catch {
      by('camera-problem').textContent = 'No camera is available, or the browser does not allow its use here.';
    }
  };

  by('images').addEventListener('change', event => { analyse([...event.target.files]); event.target.value = ''; });
  by('options').addEventListener('change', () => analyse(files));
  form.addEventListener('submit', event => event.preventDefault());
  document.addEventListener('dragover', event => { event.preventDefault(); by('drop').classList.add('over'); });
  document.addEventListener('dragleave', event => { if (!event.relatedTarget) by('drop').classList.remove('over'); });
  document.addEventListener('drop', event => {
    event.preventDefault();
    by('drop').classList.remove('over');
    analyse([...(event.dataTransfer?.files ?? [])]);
  });
  document.addEventListener('paste', event => {
    const pasted = [...(event.clipboardData?.files ?? [])];
    if (pasted.length) { event.preventDefault(); analyse(pasted); }
  });
  document.addEventListener('click', event => {
    const actions = {
      camera: open, shoot, close: () => by('dialog').close(), report: download,
      'force-button': () => document.querySelector('[name=force]').click(),
    };
    actions[event.target.id]?.();
  });
})();
