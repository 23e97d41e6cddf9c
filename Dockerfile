# The page and its REST API: docker build -t real-or-fake . && docker run --rm -p 127.0.0.1:7860:7860 real-or-fake
FROM python:3.11-slim
WORKDIR /app
COPY requirements-app.txt .
RUN pip install --no-cache-dir -r requirements-app.txt
COPY app.py ./
COPY detector detector
COPY models models
COPY docs/images docs/images
RUN useradd --create-home user
USER user
EXPOSE 7860
CMD ["python", "app.py", "--host", "0.0.0.0", "--port", "7860"]
